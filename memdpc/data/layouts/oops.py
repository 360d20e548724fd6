"""Oops!: twenty thousand home videos of people who fail, named by their YouTube titles.

There are no classes. For some videos three people each said when the action goes wrong:
`transition_times.json` holds `"t": [2.1, 2.4, -1]`, in seconds, where -1 means that this person saw
no failure. `train.txt` and `val.txt` list all videos, `train_filtered.txt` and `val_filtered.txt`
those of good quality; hence two datasets. Validation is our test.
"""

import json
import os
import unicodedata
from pathlib import Path

from memdpc.base.errors import DatasetError
from memdpc.base.files import read_text
from memdpc.data.layouts.listing import (
    Listed,
    Listing,
    Missing,
    find_folder,
    path_inside,
    quoted,
)
from memdpc.data.layouts.matching import list_files, match_files

__all__ = []

ANNOTATIONS = [
    f"{folder}annotations/{name}"
    for folder in ("oops_dataset/", "")
    for name in ("*.txt", "*.json")
]
Times = dict[str, tuple[float, ...]]
_NEVER = -1  # what an annotator gives who saw no failure


def list_oops(
    root: Path,
    split: int,
    subset: str,
) -> Listing:
    """Oops!: annotations/{train,val}.txt, names without `.mp4`, and the times of failure."""
    return _list_part(root, subset, "")


def list_oops_filtered(
    root: Path,
    split: int,
    subset: str,
) -> Listing:
    """Oops! as its paper uses it: what passed the quality control, {train,val}_filtered.txt."""
    return _list_part(root, subset, "_filtered")


def _list_part(
    root: Path,
    subset: str,
    suffix: str,
) -> Listing:
    top = "oops_dataset" if (root / "oops_dataset").is_dir() else ""
    part = "train" if subset == "train" else "val"
    what = f"the videos, as oops_dataset/oops_video/{part}/name.mp4"
    videos = find_folder(root, [os.path.join(top, "oops_video", part)], what)
    what = "the lists and transition_times.json"
    notes = root / find_folder(root, [os.path.join(top, "annotations")], what)

    times = read_transitions(notes / "transition_times.json")
    names = {name: _read_names(notes / f"{name}.txt") for name in ("train", "val")}
    wanted = _read_names(notes / f"{part}{suffix}.txt")
    if not wanted:
        raise DatasetError(f"{notes}/{part}{suffix}.txt: lists no video")

    missing: list[Missing] = []
    listed = _as_listed(wanted, videos, notes, times)
    others = _as_listed(names[part], videos, notes, times)
    match = match_files(list_files(root, videos, listed, missing), listed, others)
    every = {_composed(name) for name in names["train"] + names["val"]}
    for name in times:
        if name not in every:
            missing.append((name, "has times, and is in no list"))
    stray = [(path, f"is not in {part}.txt") for path in match.unused]
    missing += match.absent + stray
    return Listing((), match.there, missing, match.renamed, match.hint)


def _as_listed(
    names: list[str],
    videos: str,
    notes: Path,
    times: Times,
) -> list[Listed]:
    """The videos of these names, with their times of failure where there are any."""
    listed: list[Listed] = []
    for name in names:
        path = path_inside(videos, f"{name}.mp4", notes)
        listed.append(Listed(path, transitions=times.get(_composed(name), ())))
    return listed


def read_transitions(path: str | os.PathLike) -> Times:
    """{name: times in seconds} of a transition_times.json; names in Unicode's normal form NFC."""
    try:
        table = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is no JSON ({error})") from error
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: is no table of names")
    times: Times = {}
    for name, entry in table.items():
        values = entry.get("t") if isinstance(entry, dict) else None
        if not isinstance(values, list) or not all(map(_is_time, values)):
            wanted = 'has no list "t" of times in seconds (-1: none)'
            raise DatasetError(f"{path}: {quoted(name)} {wanted}")
        try:
            os.fsencode(name)
        except UnicodeEncodeError as error:
            raise DatasetError(f"{path}: {quoted(name)} can be no file's name") from error
        times[_composed(name)] = tuple(float(value) for value in values)
    return times


def _is_time(value: object) -> bool:
    """Seconds, or -1; neither true nor false, and neither NaN nor infinite."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value == _NEVER or 0 <= value < 1e6


def _composed(name: str) -> str:
    """A name whose accented letters are one character each: files and lists may differ in that."""
    return unicodedata.normalize("NFC", name)


def _read_names(path: Path) -> list[str]:
    """The lines of a list: names, which may begin or end with a space."""
    return [line for line in read_text(path).split("\n") if line.strip()]
