"""Kinetics-400: hundreds of thousands of videos from YouTube, and no two copies with the same ones.

The archives hold videos named `{youtube_id}_{start:06d}_{end:06d}.mp4`, and tables
`label,youtube_id,time_start,time_end,split`. Many copies were sorted into a folder for each class
instead. Where a table lies in the dataset's folder, the labels come from it, and what it names but
the copy lacks is counted. Otherwise the folders are the classes, those of *both* subsets, so that a
class without validation videos keeps its number. Validation is our test.
"""

import csv
import os
from pathlib import Path

from memdpc.base.errors import DatasetError
from memdpc.base.files import read_text
from memdpc.data.layouts.listing import (
    Listed,
    Listing,
    Missing,
    find_folder,
    find_unlisted,
)
from memdpc.data.layouts.walk import is_folder, video_paths

__all__ = []

_NAMES = {"train": ("train",), "test": ("val", "validate", "validation")}
_TABLE_FOLDERS = ("", "annotations/", "kinetics400/")
_TABLE_PREFIXES = ("", "kinetics_", "kinetics400_", "kinetics-400_")
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


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
    return _list_by_table(root, tables, subset, found, missing)


def _list_by_table(
    root: Path, tables: dict[str, str], subset: str, found: list[str], missing: list[Missing]
) -> Listing:
    """Labels from the tables; classes are those of both."""
    labels = {name: _read_table(root / path) for name, path in tables.items()}
    classes = sorted({label for table in labels.values() for label in table.values()})
    numbers = {name: number for number, name in enumerate(classes)}
    files = {Path(path).stem: path for path in found}
    there: list[Listed] = []
    for name, label in labels[subset].items():
        if name in files:
            there.append(Listed(files[name], numbers[label]))
        else:
            missing.append((f"{name}.mp4", "no such file"))
    missing += find_unlisted(found, there, f"is not in {tables[subset]}")
    return Listing(classes, there, missing)


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
            names.update(entry.name for entry in os.scandir(root / place) if is_folder(entry))
    classes = sorted(names)
    numbers = {name: number for number, name in enumerate(classes)}
    listed: list[Listed] = []
    for path in found:
        folder, *rest = path[len(part) + 1 :].split(os.sep)
        if rest:
            listed.append(Listed(path, numbers[folder]))
        else:
            missing.append((path, f"lies in no class, as {part}/class/name.mp4"))
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


def _read_table(path: Path) -> dict[str, str]:
    """{file name without suffix: class} of a table."""
    rows = csv.DictReader(read_text(path).split("\n"), strict=True)
    table: dict[str, str] = {}
    try:
        for name in _COLUMNS:
            if name not in (rows.fieldnames or ()):
                raise ValueError(f"there is no column {name!r}")
        for row in rows:
            start = int(row["time_start"])
            end = int(row["time_end"])
            if not row["label"] or not row["youtube_id"]:
                raise ValueError("no label or no youtube_id")
            table[f"{row['youtube_id']}_{start:06d}_{end:06d}"] = row["label"]
    except (csv.Error, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: line {rows.line_num}: {error}") from error
    if not table:
        raise DatasetError(f"{path}: lists no video")
    return table
