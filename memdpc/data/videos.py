"""The readable videos of a dataset, as training and evaluation take them."""

import io
import json
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from memdpc.base.errors import DatasetError, printable
from memdpc.data.index import examine, info_from, tuples
from memdpc.data.layouts import list_dataset
from memdpc.data.video import VideoInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    "One readable video of a dataset"

    path: str  # as in `Listed`
    label: int
    group: str
    info: VideoInfo  # what `probe` said
    transitions: tuple[float, ...] = ()


class Packed(Sequence):
    "Videos in one string of bytes: a sequence of `Video`s that takes little memory, and that many processes can share"

    def __init__(self, videos=()):
        text, ends = io.BytesIO(), array("q", [0])
        for video in videos:
            text.write(
                json.dumps(
                    [*vars(video).values()], default=lambda info: [*vars(info).values()]
                ).encode()
            )
            ends.append(text.tell())
        self.text, self.ends = text.getvalue(), np.array(ends)  # bytes, int64 [videos + 1]

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Packed(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]  # counts from the end, raises IndexError
        path, label, group, info, transitions = tuples(
            json.loads(self.text[self.ends[index] : self.ends[index + 1]])
        )
        return Video(path, label, group, info and VideoInfo(*info), transitions)

    def __eq__(self, other):
        return isinstance(other, Packed) and self.text == other.text

    def __hash__(self):
        return hash(self.text)

    def __repr__(self):
        return f"<{len(self)} videos>"


@dataclass(frozen=True)
class VideoList:
    "The videos of one dataset, in the order in which its files list them, and those left out"

    name: str
    root: Path
    classes: tuple[str, ...]  # () where there are no labels
    videos: Packed
    skipped: tuple[tuple[str, str], ...] = ()  # (path, reason)

    def __len__(self):
        return len(self.videos)

    def path(self, index):
        return self.root / self.videos[index].path

    def only(self, keep):
        "The list of those videos for which `keep(video)` is true"
        return replace(self, videos=Packed(filter(keep, self.videos)))


def summary(pairs, most=8):
    "What pairs (path, reason) say, in one line, the most frequent reason first: `2 no such file (a.mp4, ...), 1 is empty (b.mp4)`"
    found = {}
    for path, reason in pairs:
        found.setdefault(reason, []).append(path)
    groups = sorted(found.items(), key=lambda item: -len(item[1]))
    parts = [
        f"{len(paths)} {reason} ({paths[0]}{', ...' if len(paths) > 1 else ''})"
        for reason, paths in groups[:most]
    ]
    return printable(
        ", ".join(parts)
        + (f", and {len(groups) - most} more reasons" if len(groups) > most else "")
    )


def load_dataset(
    name,  # one of `DATASETS`
    root,  # its folder
    split=1,  # which of the dataset's splits
    subset="train",  # or 'test'
    num_workers=0,  # processes that open files not known yet; 0: this one, unguarded
    progress=True,
):  # a bar on standard error
    """The `VideoList` of a dataset: listed from its own files, every video opened once; what cannot be read stands in `skipped`.

    Raises `DatasetError` where the layout is not the dataset's, a list is wrong, none of the videos can be read, or a worker was killed.
    """
    classes, listed, missing = list_dataset(name, root, split, subset)
    index, skipped = (
        examine(root, [entry.path for entry in listed], num_workers, progress),
        list(missing),
    )

    def readable():
        for entry in listed:
            said = index.get(entry.path)
            if "reason" in said:
                skipped.append((entry.path, said["reason"]))
            else:
                yield Video(
                    entry.path, entry.label, entry.group, info_from(said["info"]), entry.transitions
                )

    videos = Packed(readable())
    if not len(videos):
        raise DatasetError(
            f"{root}: none of the {len(listed)} videos can be read: {summary(skipped)}"
        )
    if skipped:
        logger.warning(
            "%s: %d of %d videos are left out: %s",
            printable(root),
            len(skipped),
            len(videos) + len(skipped),
            summary(skipped),
        )
    return VideoList(name, Path(root), classes, videos, tuple(skipped))


def hold_out(videos, fraction, seed=0):
    "A `VideoList` in two, `(kept, held out)`: about `fraction` of its groups is held out, of its videos where there are none; at least one"

    def key(video):
        return video.group or video.path

    names = sorted({key(video) for video in videos.videos})
    chosen = max(1, round(fraction * len(names))) if fraction else 0
    if chosen >= len(names):
        raise DatasetError(f"{videos.root}: cannot hold out {fraction:g} of {len(names)} groups")
    out = set(np.random.default_rng([seed, 1]).permutation(names)[:chosen])
    return videos.only(lambda video: key(video) not in out), videos.only(
        lambda video: key(video) in out
    )
