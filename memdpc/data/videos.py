"""The readable videos of a dataset, as training and evaluation take them."""

import io
import json
import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from memdpc.base.errors import DatasetError, printable
from memdpc.base.files import expand_home
from memdpc.data.index import Index, examine
from memdpc.data.layouts import Listed, describe_renamed, list_dataset
from memdpc.data.video import VideoInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    """One readable video of a dataset."""

    path: str  # relative to the dataset's folder
    label: int  # index into the dataset's classes; -1: none
    group: str  # videos of one group share their source; '': no groups
    info: VideoInfo  # what `probe` found in the file
    transitions: tuple[float, ...] = ()  # Oops!: when the action goes wrong, seconds; -1: never


class Packed(Sequence[Video]):
    """A sequence of videos in one string of bytes, which many processes share.

    A training run has loader processes, and each holds the list of videos. Where they begin as
    copies of their parent (fork), that costs nothing at first: the memory is shared until someone
    writes to it. But Python writes to an object when it merely looks at it, because it counts
    references. So page by page every process gets a copy of its own; for a million videos and 64
    processes over 20 GB. The remedy is to have no objects: a `Video` is made when it is asked for.
    """

    def __init__(self, videos: Iterable[Video] = ()) -> None:
        text = io.BytesIO()
        ends = array("q", [0])
        for video in videos:
            text.write(_to_bytes(video))
            ends.append(text.tell())
        self.text = text.getvalue()  # all videos as JSON, without anything in between
        self.ends = np.array(ends)  # int64 [videos + 1], where each begins and ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> Video: ...
    @overload
    def __getitem__(self, index: slice) -> "Packed": ...
    def __getitem__(self, index: int | slice) -> "Video | Packed":
        places = range(len(self))[index]  # counts from the end, raises IndexError
        if isinstance(places, range):
            return Packed(self[place] for place in places)
        return _from_bytes(self.text[self.ends[places] : self.ends[places + 1]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packed) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"<{len(self)} videos>"


def _to_bytes(video: Video) -> bytes:
    info = list(vars(video.info).values()) if video.info else None
    values = [video.path, video.label, video.group, info, video.transitions]
    return json.dumps(values).encode()


def _from_bytes(data: bytes) -> Video:
    path, label, group, info, transitions = _lists_to_tuples(json.loads(data))
    return Video(path, label, group, info and VideoInfo(*info), transitions)


def _lists_to_tuples(value: Any) -> Any:
    """Lists as tuples, at any depth: JSON knows only lists."""
    if isinstance(value, list):
        return tuple(_lists_to_tuples(item) for item in value)
    return value


@dataclass(frozen=True)
class VideoList:
    """The videos of one dataset, in the order in which its files list them, and those left out."""

    name: str  # of the dataset
    root: Path  # its folder
    classes: tuple[str, ...]  # () where there are no labels
    videos: Packed
    skipped: tuple[tuple[str, str], ...] = ()  # (path, reason)

    def __len__(self) -> int:
        return len(self.videos)

    def path(self, index: int) -> Path:
        """Where the file of a video lies."""
        return self.root / self.videos[index].path

    def only(self, keep: Callable[[Video], object]) -> "VideoList":
        """The list of those videos for which `keep(video)` is true."""
        return replace(self, videos=Packed(filter(keep, self.videos)))


def summarize_reasons(
    pairs: Iterable[tuple[str, str]],
    most: int = 8,
) -> str:
    """Pairs (path, reason) counted by reason, in one line, the most frequent reason first.

    `2 no such file (a.mp4, ...), 1 is empty (b.mp4)`; at most `most` reasons are named.
    """
    found: dict[str, list[str]] = {}
    for path, reason in pairs:
        found.setdefault(reason, []).append(path)
    groups = sorted(found.items(), key=lambda item: -len(item[1]))
    parts: list[str] = []
    for reason, paths in groups[:most]:
        more = ", ..." if len(paths) > 1 else ""
        parts.append(f"{len(paths)} {reason} ({paths[0]}{more})")
    if len(groups) > most:
        parts.append(f"and {len(groups) - most} more reasons")
    return printable(", ".join(parts))


def load_dataset(
    name: str,
    root: str | os.PathLike,
    split: int = 1,
    subset: str = "train",
    num_workers: int = 0,
    progress: bool = True,
) -> VideoList:
    """The `VideoList` of a dataset: listed from its own files, every video opened once.

    Args:
        name: one of `memdpc.data.layouts.DATASETS`
        root: the dataset's folder
        split: which of the dataset's splits, from 1
        subset: train or test
        num_workers: processes that open files not known yet; 0: this one, unguarded
        progress: a bar on standard error

    What cannot be read stands in `skipped`, with its reason. Raises `DatasetError` where the layout
    is not the dataset's, a list is wrong, none of the videos can be read, or a worker was killed.
    """
    root = expand_home(root)
    listing = list_dataset(name, root, split, subset)
    listed = listing.listed
    if listing.renamed:
        renamed = describe_renamed(listing.renamed, len(listed))
        logger.warning("%s: %s", printable(root), printable(renamed))
    index = examine(root, [entry.path for entry in listed], num_workers, progress)
    skipped = list(listing.missing)
    videos = Packed(_readable(listed, index, skipped))
    if not len(videos):
        reasons = summarize_reasons(skipped)
        raise DatasetError(f"{root}: none of the {len(listed)} videos can be read: {reasons}")
    if skipped:
        logger.warning(
            "%s: %d of %d videos are left out: %s%s",
            printable(root),
            len(skipped),
            len(videos) + len(skipped),
            summarize_reasons(skipped),
            printable(f"; {listing.hint}") if listing.hint else "",
        )
    return VideoList(name, Path(root), tuple(listing.classes), videos, tuple(skipped))


def _readable(
    listed: Iterable[Listed], index: Index, skipped: list[tuple[str, str]]
) -> Iterator[Video]:
    """The videos that can be read; the others go to `skipped`, with their reasons."""
    for entry in listed:
        known = index.get(entry.path) or {"reason": "was not opened"}
        if "reason" in known:
            skipped.append((entry.path, known["reason"]))
            continue
        yield Video(entry.path, entry.label, entry.group, known["info"], entry.transitions)


def hold_out(
    videos: VideoList,
    fraction: float,
    seed: int = 0,
) -> tuple[VideoList, VideoList]:
    """A `VideoList` in two, (kept, held out), without parting the videos of one group.

    About `fraction` of the groups is held out, of the videos where there are none; at least one.
    Otherwise the validation would measure how well the network remembers a room. In UCF101 `g01` is
    another source in each class; like the official splits this goes by the name alone, which takes
    about as many videos from each class.
    """
    names = sorted({_group_of(video) for video in videos.videos})
    count = max(1, round(fraction * len(names))) if fraction else 0
    if count >= len(names):
        raise DatasetError(f"{videos.root}: cannot hold out {fraction:g} of {len(names)} groups")
    chosen = set(np.random.default_rng([seed, 1]).permutation(names)[:count])
    kept = videos.only(lambda video: _group_of(video) not in chosen)
    held = videos.only(lambda video: _group_of(video) in chosen)
    return kept, held


def _group_of(video: Video) -> str:
    return video.group or video.path


__all__ = ["Video", "VideoList", "hold_out", "load_dataset"]
