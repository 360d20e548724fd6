"""Tables of one's own: `train.csv` and `test.csv` with columns `path,label` and maybe `group`.

```
path,label,group
juggling/party.mp4,juggling,party
pool/IMG_0815.MOV,diving,holidays
```

Paths are relative to the dataset's folder and stay inside it. Labels are any words, or numbers; the
classes are those of `train.csv`, sorted. Videos of one group share their source: when some are held
out for validation, groups stay together.
"""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from memdpc.base.errors import DatasetError
from memdpc.base.files import read_text
from memdpc.data.layouts.listing import (
    Listed,
    Listing,
    Missing,
    path_inside,
    quoted,
    to_number,
)
from memdpc.data.layouts.matching import match_files
from memdpc.data.layouts.walk import video_paths

__all__ = []

TABLES = {"train": "train.csv", "test": "test.csv"}
ANNOTATIONS = list(TABLES.values())


class _Row(NamedTuple):
    path: str
    label: str
    group: str


def list_csv(
    root: Path,
    split: int,
    subset: str,
) -> Listing:
    """Videos, labels and groups from train.csv and test.csv in the dataset's folder."""
    train = _read_table(root / TABLES["train"])
    classes = _sorted_classes(row.label for row in train)
    other = root / TABLES["test"]
    test = _read_table(other) if subset == "test" or other.is_file() else []
    rows = train if subset == "train" else test
    listed = _as_listed(rows, classes, root / TABLES[subset])

    missing: list[Missing] = []
    found = video_paths(root, "", missing)
    # A file that a table names counts under any suffix, and in any folder.
    named = {row.path for row in rows}.difference(found)
    found += sorted(path for path in named if os.path.isfile(root / path))
    others = [Listed(row.path) for row in train + test]
    match = match_files(found, listed, others)
    stray = [(path, "is in neither train.csv nor test.csv") for path in match.unused]
    missing += match.absent + stray
    return Listing(classes, match.there, missing, match.renamed, match.hint)


def _as_listed(
    rows: list[_Row],
    classes: list[str],
    table: Path,
) -> list[Listed]:
    numbers = {name: number for number, name in enumerate(classes)}
    listed: list[Listed] = []
    for row in rows:
        if row.label not in numbers:
            where = f"{table}: {row.path}"
            label = quoted(row.label)
            raise DatasetError(f"{where} has the label {label}, which train.csv lacks")
        listed.append(Listed(row.path, numbers[row.label], row.group))
    return listed


def _sorted_classes(labels: Iterable[str]) -> list[str]:
    """Each label once: numbers by value, so that label 10 comes after 9, words by the alphabet."""
    names = set(labels)
    if all(to_number(name) is not None for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _read_table(path: Path) -> list[_Row]:
    """The rows of a table, in its order."""
    lines = csv.DictReader(read_text(path).split("\n"), strict=True, skipinitialspace=True)
    rows: list[_Row] = []
    try:
        for name in ("path", "label"):
            if name not in (lines.fieldnames or ()):
                raise ValueError(f"there is no column {name!r} (columns are parted by commas)")
        for line in lines:
            values = {name: (line.get(name) or "").strip() for name in _Row._fields}
            if not values["path"] or not values["label"]:
                raise ValueError("no path or no label")
            values["path"] = path_inside("", values["path"], path)
            rows.append(_Row(**values))
    except (csv.Error, ValueError) as error:
        raise DatasetError(f"{path}: line {lines.line_num}: {error}") from error
    if not rows:
        raise DatasetError(f"{path}: lists no video")
    return rows
