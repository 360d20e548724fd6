"""Kinetics-400: hundreds of thousands of videos from YouTube, and no two copies with the same ones.

The archives hold videos named `{youtube_id}_{start:06d}_{end:06d}.mp4`, and tables
`label,youtube_id,time_start,time_end,split`. Many copies were sorted into a folder for each class
instead. Where a table lies in the dataset's folder, the labels come from it, and what it names but
the copy lacks is counted. Otherwise the folders are the classes, those of *both* subsets, so that a
class without validation videos keeps its number. So does one whose folder is empty, since labels
are those of the whole dataset; it is named. Validation is our test.

Downloaders name the files in their own ways: without the times, or with `10` or `10.0` for
`000010`. Tables name no folder: of two files of one name that in its class's folder counts.
"""

import csv
import os
import re
from pathlib import Path

from memdpc.base.errors import DatasetError
from memdpc.base.files import read_text
from memdpc.data.layouts.listing import (
    EMPTY,
    Listed,
    Listing,
    Missing,
    find_folder,
    quoted,
    refuse_unreadable,
)
from memdpc.data.layouts.matching import FORMS, Form, loosely, match_files
from memdpc.data.layouts.walk import folder_names, video_paths

__all__ = []

_NAMES = {"train": ("train",), "test": ("val", "validate", "validation")}
_TABLE_FOLDERS = ("", "annotations/", "kinetics400/")
_TABLE_PREFIXES = ("", "kinetics_", "kinetics400_", "kinetics-400_")
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


_LONGEST_ID = 200  # letters; those of YouTube have eleven
_SECONDS = re.compile(r"([0-9]{1,9})(\.0*)?")


def _whole_seconds(text: str | None) -> int:
    """10 for `10`, `10.0` and `000010`; `ValueError` for all else."""
    seconds = _SECONDS.fullmatch((text or "").strip())
    if not seconds:
        raise ValueError(f"{quoted(text or '')} is no time in whole seconds")
    return int(seconds[1])


def _split_times(path: str) -> tuple[str, str]:
    """(`id`, `_10_20`) of `class/id_000010_000020.mp4`; ('id', '') where there are no times."""
    name = loosely(os.path.basename(path))
    video, *times = name.rsplit("_", 2)
    try:
        start, end = map(_whole_seconds, times)
    except ValueError:
        return name, ""
    return video, f"_{start}_{end}"


def _with_times(path: str) -> str:
    return "".join(_split_times(path))


def _without_times(path: str) -> str:
    return _split_times(path)[0]


def _loose_file_name(path: str) -> str:
    return loosely(os.path.basename(path))


# The folder counts first. A file without times may stand for one with times, never the reverse.
_FORMS = (
    *FORMS,
    Form(os.path.basename, os.path.basename),
    Form(_loose_file_name, _loose_file_name),
    Form(_with_times, _with_times),
    Form(_without_times, _loose_file_name),
)


def _usual_folders(names: tuple[str, ...]) -> list[str]:
    ends = [f"{names[0]}_split", *names]
    return [f"{top}{end}" for top in ("videos/", "") for end in ends]


def _usual_tables(names: tuple[str, ...]) -> list[str]:
    return [
        f"{folder}{prefix}{name}.csv"
        for folder in _TABLE_FOLDERS
        for name in names
        for prefix in _TABLE_PREFIXES
    ]


VIDEO_FOLDERS = {subset: _usual_folders(names) for subset, names in _NAMES.items()}
TABLES = {subset: _usual_tables(names) for subset, names in _NAMES.items()}
ANNOTATIONS = [*TABLES["train"], *TABLES["test"]]


def list_kinetics400(
    root: Path,
    split: int,
    subset: str,
) -> Listing:
    """Kinetics-400: by its tables where they are, else `{train,val}/class/name.mp4`."""
    part = find_folder(root, VIDEO_FOLDERS[subset], "the videos")
    missing: list[Missing] = []
    found = video_paths(root, part, missing)
    if not found:
        refuse_unreadable(root, missing)
        raise DatasetError(f"{root}/{part}: no video files")
    tables: dict[str, str] = {}
    for name, places in TABLES.items():
        place = _first_existing(root, places)
        if place is not None:
            tables[name] = place
    if not tables:
        return _list_by_folder(root, part, found, missing)
    if subset not in tables:
        there = ", ".join(tables.values())
        raise DatasetError(f"{root}: {there} lies here, but no {TABLES[subset][0]}")
    numbers, listed = _listed_in(root, tables, subset, part)
    match = match_files(found, listed, forms=_FORMS)
    missing += [(os.path.basename(path), reason) for path, reason in match.absent]
    missing += [(path, f"is not in {tables[subset]}") for path in match.unused]
    renamed: list[tuple[str, str]] = []
    for name, path in match.renamed:
        if os.path.basename(name) != os.path.basename(path):
            renamed.append((os.path.basename(name), path))
    return Listing(tuple(numbers), match.there, missing, renamed, match.hint)


def _listed_in(
    root: Path, tables: dict[str, str], subset: str, part: str
) -> tuple[dict[str, int], list[Listed]]:
    """({class: number}, the videos of a subset in their classes' folders), from the tables.

    Classes are those of both tables.
    """
    labels = {name: _read_table(root / path) for name, path in tables.items()}
    classes = sorted({label for table in labels.values() for _, label in table})
    numbers = {name: number for number, name in enumerate(classes)}
    listed: list[Listed] = []
    for name, label in labels[subset]:
        listed.append(Listed(os.path.join(part, label, f"{name}.mp4"), numbers[label]))
    return numbers, listed


def _list_by_folder(
    root: Path,
    part: str,
    found: list[str],
    missing: list[Missing],
) -> Listing:
    """A part without a table: folders are the classes, those of both parts."""
    names: set[str] = set()
    for places in VIDEO_FOLDERS.values():
        place = _first_existing(root, places)
        if place is not None:
            names.update(folder_names(root / place))
    classes = sorted(names)
    numbers = {name: number for number, name in enumerate(classes)}
    listed: list[Listed] = []
    empty = set(folder_names(root / part))
    for path in found:
        folder, *rest = path[len(part) + 1 :].split(os.sep)
        if rest:
            listed.append(Listed(path, numbers[folder]))
            empty.discard(folder)
        else:
            missing.append((path, f"lies in no class, as {part}/class/name.mp4"))
    missing += [(f"{part}/{folder}", EMPTY) for folder in sorted(empty)]
    return Listing(classes, listed, missing)


def _first_existing(
    root: Path,
    names: list[str],
) -> str | None:
    """The first of `names` that exists in `root`."""
    for name in names:
        if os.path.exists(root / name):
            return name
    return None


def _read_table(path: Path) -> list[tuple[str, str]]:
    """(file name without suffix, class) of each row of a table."""
    lines = read_text(path).split("\n")
    rows = csv.DictReader(lines, strict=True, skipinitialspace=True)
    table: list[tuple[str, str]] = []
    try:
        for name in _COLUMNS:
            if name not in (rows.fieldnames or ()):
                raise ValueError(f"there is no column {name!r}")
        for row in rows:
            start = _whole_seconds(row["time_start"])
            end = _whole_seconds(row["time_end"])
            video = row["youtube_id"]
            if not row["label"] or not video:
                raise ValueError("no label or no youtube_id")
            if len(video) > _LONGEST_ID:
                raise ValueError(f"{quoted(video)} is no youtube_id")
            table.append((f"{video}_{start:06d}_{end:06d}", row["label"]))
    except (csv.Error, ValueError) as error:
        raise DatasetError(f"{path}: line {rows.line_num}: {error}") from error
    if not table:
        raise DatasetError(f"{path}: lists no video")
    return table
