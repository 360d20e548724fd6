"""Moments and windows of a video in seconds, and what training draws from them."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memdpc.base.errors import VideoError
from memdpc.data.clips import Clips, Every, clip_places, frames_at
from memdpc.data.video import centre_crop, read_frames
from memdpc.data.videos import VideoList
from memdpc.evaluation.oops_labels import label_moments

__all__ = []

logger = logging.getLogger(__name__)

MOMENT = 0.25  # seconds from one moment to the next
MOMENTS_PER_BLOCK = 4  # a block is spread over one second


def label_blocks(
    starts: np.ndarray,
    failure: float,
    block_len: int = 5,
) -> np.ndarray:
    """`label_moments` for blocks that begin at `starts` seconds: their last frame is 1/T early."""
    starts = np.asarray(starts)
    return label_moments(
        starts,
        starts + (block_len - 1) / block_len,
        failure,
    )


# ---- moments: what is read


@dataclass(frozen=True)
class Moments:
    """All moments of each video; moment m is the block that begins at m/4 seconds.

    An item is a dict of `blocks`, uint8 `[moments, 3, T, H, W]`, and `number`, the video's. A video
    that cannot be read any more has no moments. A frame that lies in several blocks is read once.
    """

    clips: Clips  # of single blocks, a moment apart

    def __len__(self) -> int:
        return len(self.clips.videos)

    def counts(self) -> np.ndarray:
        """How many moments each video has: int [V]."""
        return np.diff(self.clips.first)

    def __getitem__(self, number: int) -> dict:
        moments = range(self.counts()[number])
        places = np.stack([clip_places(self.clips, m * MOMENT) for m in moments])  # [moments, T], s
        try:
            frames = self._read(number, places.ravel())
        except VideoError as error:
            logger.warning("%s", error)
            size = self.clips.img_size
            frames = np.zeros((0, size, size, 3), np.uint8)
        blocks = frames.reshape(-1, places.shape[1], *frames.shape[1:])  # [moments, T, H, W, 3]
        blocks = np.ascontiguousarray(
            blocks.transpose(
                0,
                4,
                1,
                2,
                3,
            )
        )
        return {"blocks": blocks, "number": number}

    def _read(self, number, seconds):
        clips = self.clips
        video = clips.videos.videos[number]
        wanted = frames_at(clips, video.info, seconds)
        different, back = np.unique(wanted, return_inverse=True)
        crop = centre_crop(video.info.width, video.info.height)
        path = clips.videos.root / video.path
        return read_frames(
            path,
            different,
            clips.img_size,
            crop,
            video.info,
        )[back]


def moments_of(
    videos: VideoList,
    img_size: int,
    block_len: int = 5,
) -> Moments:
    """The `Moments` of a `VideoList`: blocks of `block_len` frames, each spread over one second."""
    clips = Clips(
        videos,
        num_blocks=1,
        block_len=block_len,
        img_size=img_size,
        starts=Every(MOMENT),
        time_stride=1 / block_len,
    )
    return Moments(clips)


# ---- windows: what the network sees at a time


def number_of_windows(moments: Any, num_blocks: int) -> Any:
    """How many windows a video of so many moments has; at least four, so that all are covered."""
    whole = moments - MOMENTS_PER_BLOCK * (num_blocks - 1)
    return np.maximum(whole, np.minimum(MOMENTS_PER_BLOCK, moments))


def window_steps(moments: int, num_blocks: int) -> np.ndarray:
    """The moment of each step of each window, int [W, N]; -1 where a step lies past the end.

    Steps are a second apart; windows begin a moment apart.
    """
    first = np.arange(number_of_windows(moments, num_blocks))
    steps = first[:, None] + MOMENTS_PER_BLOCK * np.arange(num_blocks)
    return np.where(steps < moments, steps, -1)


def scored_steps(steps: np.ndarray) -> np.ndarray:
    """Which steps of `window_steps` count, bool [W, N].

    Those with a past; in a video's first second, where no window gives a step a past, all.
    """
    has_past = np.arange(steps.shape[1]) > 0
    in_first_second = steps < MOMENTS_PER_BLOCK
    return (steps >= 0) & (has_past | in_first_second)


# ---- draws: transitions more often than they occur


def class_weights(labels: np.ndarray, share: float) -> np.ndarray:
    """How often each class is drawn, relative to its number, for transitions to be `share`: [3].

    The mean weight over all steps is 1.
    """
    natural = np.mean(np.asarray(labels) == 1)
    if not 0 < natural < 1:
        return np.ones(3)
    others = (1 - share) / (1 - natural)
    return np.array([others, share / natural, others])


def draw_steps(
    labels: np.ndarray,
    share: float,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw `size` indices into `labels` such that transitions are `share` of them."""
    weights = class_weights(labels, share)[labels]
    return rng.choice(
        len(labels),
        size,
        p=weights / weights.sum(),
    )


class OversampledBatches:
    """Batch sampler over scored steps; transitions are `share` of what it draws.

    Like `StepBatches`, what an optimiser step draws depends on (seed, step) alone, so a resumed
    run draws what the stopped one would have drawn. Each process takes its part of a step.
    """

    def __init__(
        self,
        labels: np.ndarray,
        share: float,
        batch_size: int,
        stop: int,
        start: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.labels = labels
        self.share = share
        self.batch_size = batch_size
        self.stop = stop
        self.start = start
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size * self.world_size
        for step in range(self.start, self.stop):
            rng = np.random.default_rng([self.seed, 7, step])
            drawn = draw_steps(self.labels, self.share, size, rng)
            yield [(step, int(i)) for i in drawn[self.rank :: self.world_size]]


# ---- windows as items of a training set


@dataclass(frozen=True)
class SlidingWindows:
    """Where clips begin: at every moment, as in `window_steps`."""

    def counts(self, clips: Clips) -> np.ndarray:
        """How many windows each video has: int [V]."""
        moments = moments_of(
            clips.videos,
            clips.img_size,
            clips.block_len,
        ).counts()
        return number_of_windows(moments, clips.num_blocks)

    def start(
        self,
        clips: Clips,
        limit: float,
        which: int,
        rng: np.random.Generator,
    ) -> float:
        """Where window `which` begins, in seconds."""
        return which * MOMENT


class WindowTargets:
    """Scored steps as items: `(epoch, i)` is the window of step i, as `Clips` gives it.

    Each has its `step`, the step's place in the window, and its `target`, a class.
    """

    def __init__(
        self,
        videos: VideoList,
        failures: Sequence[float],
        num_blocks: int,
        block_len: int,
        img_size: int,
    ):
        self.clips = Clips(
            videos,
            num_blocks,
            block_len,
            img_size=img_size,
            starts=SlidingWindows(),
            time_stride=1 / block_len,
        )
        counts = moments_of(videos, img_size, block_len).counts()
        places = []
        labels = []
        for count, first, failure in zip(
            counts,
            self.clips.first,
            failures,
        ):
            steps = window_steps(count, num_blocks)
            scored = scored_steps(steps)
            places.append(np.argwhere(scored) + [first, 0])
            labels.append(
                label_blocks(
                    steps[scored] * MOMENT,
                    failure,
                    block_len,
                )
            )
        self.places = np.concatenate(places)  # [S, 2]: window, step
        self.labels = np.concatenate(labels)  # [S]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        _, i = key
        window, step = map(int, self.places[i])
        return self.clips[0, window] | {"step": step, "target": int(self.labels[i])}
