"""Saving and loading of networks: safetensors and a config, loaded strictly.

Weights as safetensors cannot run code, unlike a pickle. The loading of `huggingface_hub` is lenient
by default: entries that are missing keep their random values. Here it is strict, keeps the dtype,
and never falls back to a pickle. A config holds the names of a model's parts; of a part that was
handed in as an object it says only that, and loading asks for it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load
from torch import nn

from memdpc.base.errors import CheckpointError

_HUB_OPTIONS = (
    "revision",
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
    "proxies",
    "resume_download",
)


def _read_weights(model_id: str, hub: dict[str, Any]) -> tuple[Path, dict[str, torch.Tensor]]:
    """Path and entries of the weights in a folder, or downloaded from the hub."""
    folder = Path(model_id)
    path = folder / "model.safetensors"
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download

        gone = ("proxies", "resume_download")  # older versions of the hub pass these on
        kept = {name: value for name, value in hub.items() if name not in gone}
        path = Path(hf_hub_download(model_id, path.name, **kept))
    elif not (folder / "config.json").exists():
        raise CheckpointError(f"{model_id}: holds no config.json")
    try:
        return path, load(path.read_bytes())  # not by its name, which need not be UTF-8
    except Exception as error:
        raise CheckpointError(f"{path}: no weights that can be read ({error})") from error


class Pretrained(PyTorchModelHubMixin):
    """`save_pretrained(folder)`, `from_pretrained(folder or hub name)`: safetensors and config.

    Loading is strict and keeps the dtype of the weights. Whatever is wrong with the files is a
    `CheckpointError` of one line.
    """

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """The saved model, in eval mode."""
        if str(name).startswith(("/", ".", "~")) and not Path(name).is_dir():
            raise CheckpointError(f"{name}: no such folder")
        try:
            return super().from_pretrained(name, **options)
        except (ValueError, TypeError, AttributeError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"{name}: cannot be loaded ({reason})") from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", **options: Any) -> Self:
        hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
        path, entries = _read_weights(model_id, hub)
        floats = [value.dtype for value in entries.values() if value.is_floating_point()]
        dtype = floats[0] if floats else torch.float32
        try:
            model = cls(**options).to(map_location, dtype)
            load_strictly(model, entries)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return model.eval()


def load_strictly(
    model: nn.Module,
    entries: Mapping[str, torch.Tensor],
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Copy `entries` into `model`.

    `CheckpointError` for the first entry that is missing, extra or of another shape, named as
    `name_in_file` has it.
    """
    own = model.state_dict()
    for name in own:
        if name not in entries:
            raise CheckpointError(f"{name_in_file(name)}: missing in the checkpoint")
    for name in entries:
        if name not in own:
            known = "the checkpoint has it, the network has no such entry"
            raise CheckpointError(f"{name_in_file(name)}: {known}")
    for name, value in own.items():
        found = list(entries[name].shape)
        if found != list(value.shape):
            shapes = f"shape {found} in the checkpoint, {list(value.shape)} in the network"
            raise CheckpointError(f"{name_in_file(name)}: {shapes}")
    model.load_state_dict(entries)


_OBJECT = "object:"  # what the name of a part begins with that was handed in


def name_of(part: object) -> str:
    """What a config says of an encoder, a predictor or a loss: its name, or that it was given."""
    if isinstance(part, str):
        return part
    return _OBJECT + getattr(part, "__name__", type(part).__name__)


def check_given(**parts: object) -> None:
    """Raise `CheckpointError` for a part that a config can only describe."""
    for kind, part in parts.items():
        if isinstance(part, str) and part.startswith(_OBJECT):
            name = part.removeprefix(_OBJECT)
            ask = f"hand it in again ({kind}=...), or train with a registered name"
            raise CheckpointError(f"its {kind} was an object of your own, {name}: {ask}")


__all__ = []
