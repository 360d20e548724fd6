"""Features of a list of videos: arrays in memory, and the same as plain files."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from memdpc.base.errors import TrainingError
from memdpc.base.files import atomic_write, is_of_machine, write_bytes
from memdpc.base.tables import path_cell, path_in, text_cell

ARRAYS = (
    "blocks",
    "context",
    "labels",
    "groups",
    "block_std",
)  # each is written as NAME.npy
COLUMNS = ("row", "path", "label", "class", "group")  # of index.csv
TEXT = {
    "encoding": "utf-8",
    "errors": "surrogateescape",
    "newline": "",
}  # names may be any bytes


@dataclass
class Features:
    """What a network gives for each of V videos, in the order of their list.

    `blocks` and `context` are averages over a video's clips. A standard deviation over blocks must
    be taken of each clip before that average, so it is kept beside them, as `block_std`.
    """

    blocks: np.ndarray  # [V, N, D]: after a ReLU, averaged over the grid
    context: np.ndarray  # [V, D] or [V, 2D]: final context of each direction; [V, 0] for pixels
    labels: np.ndarray  # [V]
    groups: np.ndarray  # [V]
    paths: np.ndarray | None = None  # [V], as the dataset names its files
    block_std: np.ndarray | None = None  # [V, D]; None: the standard deviation of `blocks`

    def readout(self, kind: str) -> np.ndarray:
        """One vector for each video: the `mean` or `std` over blocks, or the `context`."""
        if kind == "mean":
            return self.blocks.mean(axis=1)
        if kind == "std":
            return self.blocks.std(axis=1) if self.block_std is None else self.block_std
        if kind == "context":
            return self.context
        raise ValueError(f"no readout {kind!r}: choose mean, std or context")

    def only(self, rows: np.ndarray) -> "Features":
        """The videos of some rows: numbers, or a bool for each video."""
        arrays = {name: values for name, values in vars(self).items() if values is not None}
        return Features(**{name: values[rows] for name, values in arrays.items()})


def having_readout(
    features: dict[str, tuple[Features, Features]], kind: str
) -> dict[str, tuple[Features, Features]]:
    """Those of `{name: (train, test)}` that have a readout of this kind: pixels have no context."""
    return {name: pair for name, pair in features.items() if pair[0].readout(kind).shape[1]}


def join_features(parts: Sequence[Features]) -> Features:
    """Several `Features`, one after the other."""
    names = [field.name for field in fields(Features)]
    return Features(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def save_features(folder: str | Path, features: Features, classes: Sequence[str] = ()) -> None:
    """Write the arrays (blocks.npy, ...) and index.csv, which tells what each row is.

    Raises `TrainingError` where they cannot be written: a full disk, perhaps.
    """
    folder = Path(folder)
    arrays = vars(features) | {"block_std": features.readout("std")}
    for name in ARRAYS:
        save_array(folder / f"{name}.npy", arrays[name])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_index_rows(features, classes))
    write_bytes(folder / "index.csv", text.getvalue().encode("utf-8", "surrogateescape"))


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy, whole or not at all; `TrainingError` where that fails."""
    with atomic_write(path) as part, open(part, "wb") as file:
        np.save(file, values, allow_pickle=False)


def _index_rows(features: Features, classes: Sequence[str]) -> list[tuple]:
    paths = [""] * len(features.labels) if features.paths is None else features.paths
    rows = []
    for row, (path, label) in enumerate(zip(paths, features.labels)):
        name = classes[label] if 0 <= label < len(classes) else ""
        group = text_cell(str(features.groups[row]))
        rows.append((row, path_cell(path), label, text_cell(name), group))
    return rows


def load_features(folder: str | Path) -> Features:
    """What `save_features` wrote; `TrainingError` where it is incomplete or damaged.

    An `OSError` where that is the machine's fault.
    """
    folder = Path(folder)
    try:
        return _read_features(folder)
    except Exception as error:  # a damaged file can raise anything
        if is_of_machine(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "remove this folder, and the features are computed again"
        raise TrainingError(f"{folder}: cannot be read ({reason}); {advice}") from error


def _read_features(folder: Path) -> Features:
    names = ["index.csv", *(f"{name}.npy" for name in ARRAYS)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:  # or a pipe, which would be waited for
        raise ValueError(f"no file {missing[0]}")
    with open(folder / "index.csv", **TEXT) as file:
        paths = np.array([path_in(row["path"]) for row in csv.DictReader(file)], str)
    arrays: dict[str, Any] = {}
    for name in ARRAYS:
        arrays[name] = np.load(folder / f"{name}.npy", allow_pickle=False)
        if len(arrays[name]) != len(paths):
            found = f"{len(arrays[name])} in {name}.npy"
            raise ValueError(f"{len(paths)} rows in index.csv, {found}")
    return Features(paths=paths, **arrays)


__all__ = ["Features", "load_features"]
