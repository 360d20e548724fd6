"""Networks to measure: of a run, a saved folder or a released file, or fresh weights."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from memdpc.base.config import ClassifyConfig, FeaturesConfig
from memdpc.base.errors import CheckpointError, ConfigError
from memdpc.base.files import read_json
from memdpc.method.model import MemDPC
from memdpc.method.released import is_released, load_released
from memdpc.method.saving import checkpoint_folder

PARTS = (
    "encoder",
    "predictor",
    "loss",
)  # of a network: names, or objects of one's own


def load_model(checkpoint: str | Path, seed: int = 0, **sizes: Any) -> MemDPC:
    """The network that `checkpoint` names, in float32 and eval mode.

    Args:
        checkpoint: a run, a checkpoint in it, a folder that `save_pretrained` wrote, a released
            `.pth.tar`, or 'random' for fresh weights. Of a classifier encoder and aggregators are
            taken; it has no predictor.
        seed: of fresh weights; the caller's own random numbers are left alone.
        sizes: arguments of `MemDPC` for fresh and released weights, which do not record them. A
            saved network has its own: only the parts that it was built with as objects
            (`encoder=`, `predictor=`, `loss=`) can be given again.

    Raises:
        CheckpointError: there is no checkpoint, or it does not fit.
        ConfigError: sizes were given for a saved network.
    """
    if checkpoint == "random":
        return _fresh(seed, sizes)
    if is_released(checkpoint):
        return load_released(Path(checkpoint), **sizes).float().eval()
    parts = {name: sizes.pop(name) for name in PARTS if callable(sizes.get(name))}
    if sizes:
        names = ", ".join(sizes)
        raise ConfigError(f"{checkpoint}: a saved network has its own sizes: leave out {names}")
    folder = checkpoint_folder(checkpoint)
    return MemDPC.from_pretrained(folder, **parts).float()


def fresh_model(model: MemDPC, seed: int = 0) -> MemDPC:
    """A network like `model` with fresh weights, in eval mode: the baseline of every measurement.

    Parts that are objects cannot be built again by name: they are copied, and every layer that has
    `reset_parameters` starts anew.
    """
    if not any(str(model.sizes.get(name)).startswith("object:") for name in PARTS):
        return _fresh(seed, model.sizes)
    fresh = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return fresh.eval()


def _fresh(seed: int, sizes: dict[str, Any]) -> MemDPC:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MemDPC(**sizes).eval()


def run_config(checkpoint: str | Path) -> dict[str, Any]:
    """The config.json of the run that a checkpoint belongs to; {} where there is no run.

    Raises `CheckpointError` where the file is damaged.
    """
    if checkpoint == "random":
        return {}
    path = Path(checkpoint).resolve()
    for folder in (path, *path.parents[:2]):
        file = folder / "config.json"
        if (folder / "checkpoints").is_dir() and file.is_file():
            return _checked_run(read_json(file, CheckpointError(f"{file}: damaged")), file)
    return {}


def _checked_run(run: dict[str, Any], file: Path) -> dict[str, Any]:
    """A run's settings, of which those that a measurement takes over are read by their fields."""
    taken = ("dataset", "split", "checkpoint", "frame_stride", "time_stride", "seed")
    found = {name: run[name] for name in taken if name in run}
    try:
        checked = replace(ClassifyConfig(), **found)
    except ConfigError as error:
        raise CheckpointError(f"{file}: damaged ({error})") from error
    return run | {name: getattr(checked, name) for name in found}


def given_sizes(config: Any) -> dict[str, int]:
    """Those of `img_size` and `num_blocks` that a config sets."""
    sizes = {
        "img_size": config.img_size,
        "num_blocks": config.num_blocks,
    }
    return {name: value for name, value in sizes.items() if value}


def sized_model(config: Any, model: MemDPC | None = None) -> tuple[MemDPC, dict[str, int]]:
    """The network of a job's config, and the `num_blocks` and `img_size` of the clips to show it.

    Args:
        config: with `checkpoint`, `encoder`, `img_size`, `num_blocks` and `seed`.
        model: the network itself, where a job was handed one; `checkpoint` is then not looked at.
    """
    if model is None:
        model = _named_model(config)
    own = {"num_blocks": model.num_blocks, "img_size": model.img_size}
    return model.eval(), own | given_sizes(config)


def _named_model(config: Any) -> MemDPC:
    if not config.checkpoint:
        raise ConfigError("no checkpoint: name a run, a checkpoint, a released .pth.tar, or random")
    fresh = config.checkpoint == "random"
    if not fresh and not is_released(config.checkpoint):
        return load_model(config.checkpoint)
    sizes: dict[str, Any] = given_sizes(config)
    if config.num_blocks:
        # Of few blocks only few can be predicted.
        sizes["pred_steps"] = min(3, config.num_blocks - 1)
    if fresh:
        sizes["encoder"] = config.encoder
    return load_model(config.checkpoint, config.seed, **sizes)


def strides(config: FeaturesConfig) -> dict[str, Any]:
    """`frame_stride` and `time_stride` of a config; where it sets neither, its checkpoint's run's.

    A classifier's run may itself have left them to the checkpoint that it began with. Without a
    run every third frame is used, as in the paper. `ConfigError` where that checkpoint is gone.
    """
    seen = set()
    while not (config.frame_stride or config.time_stride) and config.checkpoint not in seen:
        seen.add(config.checkpoint)
        run = run_config(config.checkpoint)
        if "frame_stride" not in run:
            break
        names = ("frame_stride", "time_stride", "checkpoint")
        config = replace(config, **{name: run[name] for name in names if name in run})
        given = config.frame_stride or config.time_stride or config.checkpoint == "random"
        if not given and not Path(config.checkpoint).exists():
            reason = "the stride of clips is recorded there, and it is gone"
            raise ConfigError(f"{config.checkpoint}: {reason}; say frame_stride")
    return {
        "frame_stride": config.frame_stride or 3,
        "time_stride": config.time_stride,
    }


__all__ = ["load_model"]
