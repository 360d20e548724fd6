"""Labels of unintentional action: three annotators' times become a class for each clip."""

import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memdpc.base.config import OopsConfig
from memdpc.base.errors import DatasetError, printable
from memdpc.base.terminal import on_terminal
from memdpc.data.layouts import normalize_name, read_transitions
from memdpc.data.videos import VideoList, hold_out, load_dataset, summarize_reasons

__all__ = []

logger = logging.getLogger(__name__)

CLASSES = ("intentional", "transition", "unintentional")

_UNLABELLED = "has no times"
# Limits of the dataset's own code: the relative median time, and the length in seconds.
_POSITIONS = (0.01, 0.99)
_LENGTHS = (3.2, 30)
# Lengths are rounded in the annotation files.
_TOLERANCE = 0.1
_MOST_LISTED = 100


class LabelledVideos(NamedTuple):
    """Videos that have a class, and when each of them fails."""

    videos: VideoList
    failures: list[float]  # seconds, one a video; infinity: nothing fails


# ---- one video


def failure_time(
    times: Sequence[float],
    duration: float,
    reading: str = "memdpc",
) -> tuple[float, str]:
    """When a video fails, from its annotators' times: `(seconds, reason)`.

    Args:
        times: one for each annotator, in seconds; -1: this one saw no failure.
        duration: of the video, in seconds.
        reading: `memdpc`: the median of the times that are not -1, infinity if all are.
            `oops`: the dataset's own code: the middle one of the sorted times, -1 kept.

    The reason is empty, or says why the video is left out; the time is NaN then.
    """
    if not times:
        return math.nan, _UNLABELLED
    if max(times) > duration + _TOLERANCE:
        return math.nan, "has a time after its end"
    if reading == "memdpc":
        seen = [time for time in times if time >= 0]
        return (statistics.median(seen) if seen else math.inf), ""
    return _failure_time_of_dataset_code(times, duration)


def _failure_time_of_dataset_code(times, duration):
    middle = sorted(times)[len(times) // 2]
    if middle < 0:
        return math.nan, "was seen to fail by fewer than half of the annotators"
    relative = statistics.median(times) / duration
    if not _POSITIONS[0] <= relative <= _POSITIONS[1]:
        return math.nan, "fails too near to its beginning or end"
    if not _LENGTHS[0] <= duration <= _LENGTHS[1]:
        return math.nan, "is too short or too long"
    return middle, ""


def label_moments(
    starts: np.ndarray,
    ends: np.ndarray,
    failure: float,
) -> np.ndarray:
    """The class of each clip that lasts from `starts` to `ends`: int, an index into `CLASSES`.

    All times are in seconds; a clip's end is the time of its last frame. A clip is a transition
    if the failure lies within it, ends included, and unintentional if it begins later.
    """
    starts = np.asarray(starts)
    ends = np.asarray(ends)
    labels = np.where(starts > failure, 2, 0)
    labels[(starts <= failure) & (failure <= ends)] = 1
    return labels


# ---- a dataset


def label_videos(
    videos: VideoList, reading: str = "memdpc"
) -> tuple[LabelledVideos, list[tuple[str, str]]]:
    """The videos that have a class under a reading, and `(path, reason)` of the others."""
    failures = {}
    left_out = []
    for video in videos.videos:
        failure, reason = failure_time(
            video.transitions,
            video.info.duration,
            reading,
        )
        if reason:
            left_out.append((video.path, reason))
        else:
            failures[video.path] = failure
    kept = videos.only(lambda video: video.path in failures)
    return LabelledVideos(kept, list(failures.values())), left_out


def annotated_videos(config: OopsConfig) -> tuple[dict[str, LabelledVideos], dict[str, int]]:
    """The labelled videos of a dataset in three parts, and counts of what is left out.

    Returns `({"train": ..., "held out": ..., "test": ...}, counts)`. Raises `DatasetError` where a
    part has no annotation, or no video with a class.
    """
    parts = {}
    counts = {}
    for part in ("train", "test"):
        listed = load_dataset(
            config.dataset, config.root, 1, part, config.num_workers, on_terminal()
        )
        labelled, left_out = _label_part(config, part, listed)
        parts[part] = labelled
        counts[f"{part}_videos"] = len(listed)
        counts[f"{part}_skipped"] = len(listed.skipped)
        counts[f"{part}_labelled"] = len(labelled.videos)
        counts[f"{part}_failing"] = int(np.isfinite(labelled.failures).sum())
        counts[f"{part}_unlabelled"] = len(left_out)
    parts["train"], parts["held out"] = _hold_out(parts["train"], config)
    return parts, counts


def _label_part(config, part, listed):
    if not any(video.transitions for video in listed.videos):
        raise DatasetError(
            f"{config.root}: no {part} video has times of failure; "
            "oops needs a dataset in the layout of Oops!, as dataset oops"
        )
    labelled, left_out = label_videos(listed, config.reading)
    if left_out:
        logger.info(
            "%s: %d of %d videos have no class: %s",
            part,
            len(left_out),
            len(listed),
            summarize_reasons(left_out),
        )
    unusual = [(path, reason) for path, reason in left_out if reason != _UNLABELLED]
    for path, reason in unusual[:_MOST_LISTED]:
        logger.info("no class: %s: %s", printable(path), reason)
    if not labelled.failures:
        raise DatasetError(
            f"{config.root}: no {part} video has a class under the reading {config.reading}: "
            f"{summarize_reasons(left_out)}"
        )
    return labelled, left_out


def _hold_out(labelled, config):
    failure_of = {
        video.path: failure for video, failure in zip(labelled.videos.videos, labelled.failures)
    }
    parts = hold_out(labelled.videos, config.val_fraction, config.seed)
    return [
        LabelledVideos(videos, [failure_of[video.path] for video in videos.videos])
        for videos in parts
    ]


def fourth_annotator_times(config: OopsConfig, videos: VideoList) -> list[tuple[float, ...]]:
    """The fourth annotator's time of each video of Oops!; () for those that have none."""
    folders = (Path(config.root, "oops_dataset"), Path(config.root))
    files = [folder / "annotations" / "heldout_transition_times.json" for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return [()] * len(videos)
    times = {normalize_name(name): entry for name, entry in read_transitions(found).items()}
    return [times.get(normalize_name(Path(video.path).stem), ()) for video in videos.videos]
