"""What the atlas looks at: training clips in batches, and stages of a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from memdpc.base.config import AtlasConfig
from memdpc.base.errors import CheckpointError, ConfigError, DatasetError
from memdpc.base.files import checkpoints_in
from memdpc.base.terminal import progress_bar
from memdpc.base.viz import as_text
from memdpc.data.clips import Clips
from memdpc.evaluation.checkpoints import (
    checkpoint_folder,
    load_model,
    run_config,
    sized_model,
)
from memdpc.evaluation.features import clips_of
from memdpc.method.kinds import need_predictor
from memdpc.method.model import MemDPC
from memdpc.training.processes import make_accelerator, make_loader, watched_workers

__all__ = []

_FEWEST_CLIPS = 4  # for a map


class TrainingClips(NamedTuple):
    """Clips of the training videos and what they show."""

    clips: Clips
    labels: np.ndarray  # int [clips]
    classes: tuple[str, ...]  # names as pictures show them

    def name(self, number: int) -> str:
        """The class of a clip."""
        return self.classes[self.labels[number]]


def training_clips(
    config: AtlasConfig,
    model: MemDPC,
    num_blocks: int,
    img_size: int,
) -> TrainingClips:
    """The clips of a dataset's training videos; without labels all are of one class."""
    clips = clips_of(config, "train", model.block_len, num_blocks, img_size)
    videos = clips.videos
    if len(clips) < _FEWEST_CLIPS:
        raise DatasetError(
            f"{config.root}: {len(clips)} clips are too few for a map; atlas needs four"
        )
    if config.example >= len(videos):
        raise ConfigError(
            f"example {config.example}: there are {len(videos)} training videos, from 0 on"
        )
    labels = np.array([max(video.label, 0) for video in videos.videos])
    classes = tuple(as_text(name) for name in videos.classes) or ("no label",)
    return TrainingClips(clips, np.repeat(labels, config.clips_per_video), classes)


def read_batches(
    clips: Clips,
    numbers: np.ndarray,
    config: AtlasConfig,
    desc: str,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `(numbers [B], uint8 clips [B, N, 3, T, H, W])`.

    A clip whose video cannot be read any more is left out, and the log says so.
    """
    size = config.batch_size
    keys = [(0, int(number)) for number in numbers]
    batches = [
        keys[first : first + size]
        for first in range(
            0,
            len(keys),
            size,
        )
    ]
    loader = make_loader(clips, batches, config.num_workers)
    with watched_workers():
        for batch in progress_bar(loader, desc):
            whole = batch["broken"] == 0
            if whole.any():
                yield batch["index"][whole], batch["clip"][whole]


def some_clips(
    labels: np.ndarray,
    most_classes: int = 10,
    most_clips: int = 40,
    seed: int = 0,
) -> np.ndarray:
    """Numbers of clips, in order: random ones of at most so many classes, so many of each."""
    rng = np.random.default_rng([seed, 7])
    chosen = rng.permutation(np.unique(labels))[:most_classes]
    numbers = [rng.permutation(np.flatnonzero(labels == label))[:most_clips] for label in chosen]
    return np.sort(np.concatenate(numbers))


# ---- networks


def load_memory_model(config: AtlasConfig) -> tuple[MemDPC, dict[str, int]]:
    """`(model, {size: value})` in eval mode; `MemdpcError` unless it has the slots asked for."""
    model, sizes = sized_model(config)
    need_predictor(model, config.checkpoint)
    slots = getattr(model.predictor, "slots", None)
    if slots is None:
        raise CheckpointError(
            f"{config.checkpoint}: a network without a memory (mem_size 0: DPC); "
            "the atlas has nothing to show"
        )
    for slot in config.slots:
        if slot >= len(slots):
            raise ConfigError(
                f"slot {slot}: this memory has {len(slots)} slots, 0 to {len(slots) - 1}"
            )
    accelerator = make_accelerator(config.device, num_workers=config.num_workers)
    return model.to(accelerator.device).eval(), sizes


def stage_models(
    checkpoint: str | Path,
    count: int,
    model: MemDPC,
) -> dict[str, MemDPC]:
    """`{name: MemDPC}`: stages of the run that `checkpoint` belongs to, `model` the last of them.

    There are `count` of them, evenly among the run's checkpoints up to this one. The first is the
    untrained network, drawn again from the run's seed. Without a run it is fresh weights; 'random'
    has no other stage.
    """
    if checkpoint == "random":
        return {"untrained": model}
    run = run_config(checkpoint)
    first = load_model(
        "random",
        run.get("seed", 0),
        **model.sizes,
    ).eval()
    if not run:
        return {"fresh weights": first, "checkpoint": model}
    last = checkpoint_folder(Path(checkpoint))
    stages = {"untrained": first}
    for folder in _earlier_checkpoints(last, count):
        stages[_stage_name(folder)] = load_model(folder).eval()
    return stages | {_stage_name(last): model}


def _earlier_checkpoints(last, count):
    """Of the checkpoints before the last, those that lie evenly between the start and it."""
    earlier = [folder for folder in checkpoints_in(last.parent.parent) if folder < last]
    places = (
        np.linspace(
            0,
            len(earlier) + 1,
            max(count, 2),
        )
        .round()
        .astype(int)
    )
    between = np.unique(places)[1:-1]  # the first and the last are there anyway
    return [earlier[place - 1] for place in between]


def _stage_name(folder):
    return f"step {int(folder.name.removeprefix('step-'))}"
