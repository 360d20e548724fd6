"""Mistakes in a classification job, found before it begins, and warnings about its data."""

import logging
from typing import Any

from memdpc.base.config import CLASSIFY_PRESETS, ClassifyConfig
from memdpc.base.errors import ConfigError
from memdpc.data.videos import VideoList
from memdpc.evaluation.checkpoints import run_config
from memdpc.evaluation.predictions import labels_of

logger = logging.getLogger(__name__)

OF_PROBE = ("readout", "clips_per_video")
OF_LABELS = ("label_fraction", "draw")
OF_TRAINING = (
    "epochs",
    "max_steps",
    "lr",
    "backbone_lr",
    "weight_decay",
    "dropout",
    "milestones",
    "warmup_steps",
    "cosine",
    "min_area",
    "flip",
    "jitter",
    "val_fraction",
    "val_every",
    "log_every",
    "checkpoint_every",
)
UNUSED = {  # fields that a mode does not look at
    "probe": (*OF_TRAINING, "crops", "precision"),
    "linear": OF_PROBE,
    "finetune": OF_PROBE,
    "scratch": OF_PROBE,
    "test": (*OF_TRAINING, *OF_PROBE, *OF_LABELS),
}


def refuse_unused_fields(config: ClassifyConfig) -> None:
    """`ConfigError` for a field that was set, and that `config.mode` does not use.

    A value that one of the presets has may have come from there: it is let pass.
    """
    unused = []
    for name in UNUSED[config.mode]:
        usual = [getattr(preset, name) for preset in CLASSIFY_PRESETS.values()]
        if getattr(config, name) not in usual:
            unused.append(name)
    if unused:
        advice = "leave it out, or choose another mode"
        raise ConfigError(f"mode {config.mode} does not use {', '.join(unused)}: {advice}")


def warn_of_split(config: ClassifyConfig) -> None:
    """Warn if the checkpoint's run was trained on test videos of the config's split."""
    run: dict[str, Any] = run_config(config.checkpoint)
    if config.mode == "scratch" or run.get("dataset") != config.dataset:
        return
    split = run.get("split", config.split)
    if split != config.split:
        message = "%s was trained on split %d of %s: it has seen test videos of split %d"
        logger.warning(
            message,
            config.checkpoint,
            split,
            config.dataset,
            config.split,
        )


def warn_of_training(config: ClassifyConfig, labelled: VideoList, kept: VideoList) -> None:
    """Warn of classes whose every labelled video is held out, and of milestones after the end."""
    lost = len(set(labels_of(labelled))) - len(set(labels_of(kept)))
    late = [milestone for milestone in config.milestones if milestone >= config.epochs]
    if lost:
        message = "%d classes have no labelled video left: all are held out; "
        logger.warning(message + "val_fraction=0 holds none out", lost)
    if late:
        epochs = ", ".join(map(str, late))
        message = "the learning rate does not fall at epochs %s: there are only %d"
        logger.info(message, epochs, config.epochs)


__all__ = []
