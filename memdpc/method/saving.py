"""Saving and loading of networks: safetensors and a config, loaded strictly.

Weights as safetensors cannot run code, unlike a pickle. The loading of `huggingface_hub` is lenient
by default: entries that are missing keep their random values. Here it is strict, keeps the dtype,
and never falls back to a pickle. A config holds the names of a model's parts; of a part that was
handed in as an object it says only that, and loading asks for it.

A folder may come from a stranger. Its config is read as the settings of a job are, and compared
with the weights' header, before memory is asked for; weights that are NaN or infinite are refused.
"""

import re
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from memdpc.base.config import PretrainConfig
from memdpc.base.errors import CheckpointError, ConfigError
from memdpc.base.files import checkpoints_in, expand_home, read_json, step_of
from memdpc.method.encoder import build_encoder
from memdpc.method.kinds import MADE_BY, NETWORK, kind_of, network_config, network_entries
from memdpc.method.weights import FLOATS, WEIGHTS, read_header, read_tensors

_HUB_OPTIONS = (
    "revision",
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
)
_GONE = ("proxies", "resume_download")  # older versions of the hub's client took these

# What a config holds: of a network, and what a classifier adds.
_OF_NETWORK = (
    "encoder",
    "img_size",
    "num_blocks",
    "block_len",
    "pred_steps",
    "mem_size",
    "bidirectional",
    "dropout",
    "address_gain",
    "predictor",
    "loss",
)
_OF_CLASSIFIER = ("classes", "head_dropout", "frozen")

# Up to so many slots, or classes, a network is built without asking: they take 100 MB at most.
_FEW_ROWS = 10_000


class Described(Protocol):
    """What is compared: a tensor, or what a header says of one."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> Any: ...


class Pretrained(PyTorchModelHubMixin):
    """`save_pretrained(folder)`, `from_pretrained(folder, run or hub name)`: weights and config.

    Loading is strict and keeps the dtype of the weights. Whatever is wrong with the files is a
    `CheckpointError` of one line.
    """

    kind = NETWORK

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, map_location: str | torch.device = "cpu", **options: Any
    ) -> Self:
        """The saved model, in eval mode; of a run, its last checkpoint.

        Args:
            name: a folder that `save_pretrained` wrote, a run, a checkpoint in it, or USER/NAME at
                the hub. Where a network is wanted, a classifier's is taken, if it has one.
            map_location: the device.
            options: of the hub (revision, token, ...), or parts that were handed in as objects.
        """
        hub = {key: options.pop(key) for key in _HUB_OPTIONS if key in options}
        parts = {key: value for key, value in options.items() if key not in _GONE}
        folder = _folder_of(str(name), hub)
        path = folder / WEIGHTS
        header: Mapping[str, Described] = read_header(path)
        kind = kind_of(header)
        if cls.kind not in (kind, NETWORK):
            raise CheckpointError(f"{folder}: {kind}, not {cls.kind} ({MADE_BY[cls.kind]})")
        config = read_config(folder)
        only_network = cls.kind == NETWORK
        if only_network:
            config = network_config(kind, config)
            header = network_entries(kind, header)
        try:
            check_slots(config | parts, header)
            model: Any = cls(**config | parts)
            model.to(map_location, dtype_of(header))
            check_entries(model, header)
            entries = read_tensors(path)
            if only_network:
                entries = network_entries(kind, entries)
            load_strictly(model, entries)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{folder}: {error}") from error
        except (ValueError, TypeError, RuntimeError) as error:
            reason = shorten(str(error), 200) or type(error).__name__
            raise CheckpointError(f"{folder}: cannot be loaded ({reason})") from error
        return model.eval()


# ---- folders


def checkpoint_folder(path: str | Path) -> Path:
    """The folder with the weights: `path`, or the checkpoint of the run at `path`.

    Of a classifier's run that is the checkpoint that was tested, else the last one.
    """
    path = Path(expand_home(path))
    if (path / WEIGHTS).exists():
        return path
    kept = checkpoints_in(path)
    if not kept:
        accepted = f"a run, a folder with {WEIGHTS}, a .pth.tar, or random"
        raise CheckpointError(f"{path}: {_what_is(path)} ({accepted})")
    results = path / "metrics.json"
    known = read_json(results, CheckpointError(f"{results}: damaged")) if results.is_file() else {}
    if "tested_step" not in known:
        return kept[-1]
    tested = known["tested_step"]
    for checkpoint in kept:
        if type(tested) is int and step_of(checkpoint) == tested:
            return checkpoint
    raise CheckpointError(f"{results}: no checkpoint of the tested step, {tested!r:.40}, is here")


def _what_is(path: Path) -> str:
    """What stands where a checkpoint is wanted."""
    if not path.exists():
        return "no checkpoint here"
    if not path.is_dir():
        return "not a checkpoint's folder" + f"; name {path.parent}" * (path.name == WEIGHTS)
    if (path / "origin.json").exists() or (path / "vectors.npy").exists():
        return "features, and no checkpoint here"
    if (path / "metrics.json").exists():
        return "results, and no checkpoint here"
    return "no checkpoint here"


def _folder_of(name: str, hub: dict[str, Any]) -> Path:
    """The folder with the weights that `name` is, or that are downloaded from the hub."""
    path = Path(expand_home(name))
    place = path.parent
    at_hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name, re.ASCII)
    if at_hub and not path.exists() and not place.exists():
        return _download(name, hub)
    if not path.exists():
        raise CheckpointError(f"{name}: no such folder")
    return checkpoint_folder(path)


def _download(name: str, hub: dict[str, Any]) -> Path:
    """The folder of a network from the hub, or from the cache of what was downloaded before."""
    from huggingface_hub import HfApi, hf_hub_download

    asked = {key: hub[key] for key in ("revision", "token") if key in hub}
    try:
        if not hub.get("local_files_only"):
            HfApi().model_info(name, timeout=10, **asked)
    except Exception:  # of whichever library the hub's client stands on
        # Asked once: downloading would ask again, for half a minute.
        hub = hub | {"local_files_only": True}
    try:
        hf_hub_download(name, "config.json", **hub)
        return Path(hf_hub_download(name, WEIGHTS, **hub)).parent
    except Exception as error:
        neither = "no such folder here, and at the hub no network of this name could be reached"
        raise CheckpointError(f"{name}: {neither}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config beside some weights: what a network, or a classifier, is built from.

    Sizes are read as the settings of a pretraining are, with the same ranges; what is not known
    here is left out.
    """
    file = folder / "config.json"
    if not file.exists():
        raise CheckpointError(f"{folder}: holds no config.json")
    found = read_json(file, CheckpointError(f"{file}: damaged"))
    given = {name: found[name] for name in _OF_NETWORK if name in found}
    try:
        read = PretrainConfig(**given)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {shorten(str(error), 200)}") from error
    head = {name: found[name] for name in _OF_CLASSIFIER if name in found}
    classes = head.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{file}: classes must be a list of names")
    return {name: getattr(read, name) for name in given} | head


# ---- weights


def check_slots(
    config: Mapping[str, Any],
    entries: Mapping[str, Described],
    name_in_file: Callable[[str], str] = str,
) -> None:
    """`CheckpointError` for many slots, or classes, in a config that the weights do not have.

    This is asked before the network is built: a stranger's config may claim any number of them.
    """
    slots = config.get("mem_size", 0) if config.get("predictor", "memory") == "memory" else 0
    classes = len(config.get("classes", ()))
    if max(slots, classes) <= _FEW_ROWS:
        return
    dim: Any = build_encoder(config.get("encoder", PretrainConfig.encoder)).dim
    directions = 2 if config.get("bidirectional", True) else 1
    wanted = {
        "linear.weight": [classes, directions * dim],
        "predictor.slots": [slots, dim],
        "predictor.phi.2.weight": [slots, dim, 1, 1],
    }
    for name, shape in wanted.items():
        found = list(entries[name].shape) if name in entries else []
        if shape[0] > _FEW_ROWS and found != shape:
            shapes = f"shape {found} in the checkpoint, {shape} by its config"
            raise CheckpointError(f"{name_in_file(name)}: {shapes}")


def dtype_of(entries: Mapping[str, Described]) -> torch.dtype:
    """The dtype that holds all weights: theirs, if they have one; the wider one, if several."""
    known = [entry.dtype for entry in entries.values() if entry.dtype in FLOATS.values()]
    return reduce(torch.promote_types, known) if known else torch.float32


def check_entries(
    model: nn.Module,
    entries: Mapping[str, Described],
    name_in_file: Callable[[str], str] = str,
) -> None:
    """`CheckpointError` for the first entry that is missing, extra, or of another shape or type."""
    own = model.state_dict()
    for name in own:
        if name not in entries:
            raise CheckpointError(f"{name_in_file(name)}: missing in the checkpoint")
    for name in entries:
        if name not in own:
            known = "the checkpoint has it, the network has no such entry"
            raise CheckpointError(f"{name_in_file(name)}: {known}")
    for name, value in own.items():
        entry = entries[name]
        found = list(entry.shape)
        if found != list(value.shape):
            shapes = f"shape {found} in the checkpoint, {list(value.shape)} in the network"
            raise CheckpointError(f"{name_in_file(name)}: {shapes}")
        accepted = FLOATS.values() if value.is_floating_point() else (value.dtype,)
        if entry.dtype not in accepted:
            dtypes = f"{entry.dtype} in the checkpoint, {value.dtype} in the network"
            raise CheckpointError(f"{name_in_file(name)}: {dtypes}")


def load_strictly(
    model: nn.Module,
    entries: Mapping[str, torch.Tensor],
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Copy `entries` into `model`.

    `CheckpointError` for the first entry that does not fit (see `check_entries`) or that
    `check_numbers` refuses, named as `name_in_file` has it.
    """
    check_entries(model, entries, name_in_file)
    for name, value in entries.items():
        check_numbers(name_in_file(name), value)
    model.load_state_dict(entries)


def check_numbers(name: str, value: torch.Tensor) -> None:
    """`CheckpointError` for weights that are NaN or infinite, and for a variance below 0."""
    if not value.is_floating_point() or not value.numel():
        return
    low, high = value.aminmax()  # NaN, if any is; ten times as fast as `isfinite`
    if not (low.isfinite() and high.isfinite()):
        raise CheckpointError(f"{name}: NaN or infinite in the checkpoint")
    if name.endswith("running_var") and low < 0:
        raise CheckpointError(f"{name}: a negative variance in the checkpoint")


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy the weights of a checkpoint's folder into `model`; errors as above."""
    path = folder / WEIGHTS
    check_entries(model, read_header(path))
    load_strictly(model, read_tensors(path))


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
