"""What all layouts share: what comes out, names that are compared, and the registry.

A *split* divides a dataset into two *subsets*, `train` and `test`; UCF101 and HMDB51 have three
splits. Let L be the names that the dataset's files give for a subset, A those for both subsets, and
F the video files that are there.

| set | what becomes of it |
|---|---|
| in L and in F | *listed*: these are the videos, in the order of the lists |
| in L, in F under a name of another spelling | *listed*, and *renamed* |
| in L, not in F | *missing*, "no such file": the download is not complete |
| in F, not in A | *missing*, "is in no list" or the like: it has no label |

So nothing that is listed is dropped without being named.
"""

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from memdpc.base.errors import ConfigError, DatasetError
from memdpc.base.registry import Registry
from memdpc.data.layouts.walk import UNREADABLE

__all__ = []

Missing = tuple[str, str]  # (name, reason)

ABSENT = "no such file"
UNCLEAR = "no such file, and which one stands for it is not clear"
EMPTY = "holds no video"  # of a folder that would be a class
LONGEST_PATH = 4096  # letters: no system has a longer one


class Listed(NamedTuple):
    """A video that is there, and what the dataset's files say of it."""

    path: str  # relative to the dataset's folder
    label: int = -1  # index into the dataset's classes; -1: none
    group: str = ""  # videos of one group share their source; '': the dataset has no groups
    # Oops!: when the action goes wrong, for each annotator, in seconds; -1: it does not
    transitions: tuple[float, ...] = ()


class Listing(NamedTuple):
    """What a dataset's own files say."""

    classes: Sequence[str]  # () where there are no labels
    listed: Sequence[Listed]  # in the order of the files
    missing: Sequence[Missing] = ()  # named and not there, or there and not to be placed
    renamed: Sequence[tuple[str, str]] = ()  # (name in the list, another name on the disk)
    hint: str = ""  # the nearest that is there to a name that is not


ListFunction = Callable[[Path, int, str], Listing]


@dataclass(frozen=True, eq=False)
class Layout:
    """How a dataset is listed, its number of splits, and the files that list it."""

    list_function: ListFunction  # (root, split, subset) -> Listing
    splits: int
    annotations: tuple[str, ...]  # patterns of glob, relative to the dataset's folder

    def __eq__(self, other: object) -> bool:
        # By the function's name: a notebook's cell that defines and registers it is run twice.
        if not isinstance(other, Layout):
            return NotImplemented
        return self.list_function.__qualname__ == other.list_function.__qualname__


DATASETS: Registry[Layout] = Registry("dataset")


def register_dataset(
    name: str,
    list_function: ListFunction,
    *,
    splits: int = 1,
    annotations: Iterable[str] = (),
) -> None:
    """Make a dataset known under a name, to every command and function that takes one.

    Args:
        name: what `--dataset` takes
        list_function: `(root, split, subset) -> Listing`; raises `DatasetError` for wrong files
        splits: how many there are, counted from 1
        annotations: patterns of the files that name the videos, relative to the dataset's folder;
            `memdpc prepare` copies these

    `ConfigError` where another function has the name.
    """
    DATASETS.register(name, Layout(list_function, splits, tuple(annotations)))


def number_of_splits(name: str) -> int:
    """How many splits a dataset has."""
    return DATASETS[name].splits


def annotation_files(
    name: str,
    root: str | os.PathLike,
) -> list[str]:
    """Paths, relative to `root`, of the files that name the videos of a dataset.

    A copy of the dataset needs them in the same places.
    """
    found: list[str] = []
    for pattern in DATASETS[name].annotations:
        found.extend(glob.glob(pattern, root_dir=root))
    # A pipe would be waited for without end.
    return sorted(path for path in found if os.path.isfile(os.path.join(root, path)))


def list_dataset(
    name: str, root: str | os.PathLike, split: int = 1, subset: str = "train"
) -> Listing:
    """The `Listing` of a dataset, from its own files; no video is opened.

    Args:
        name: one of `DATASETS`
        root: the dataset's folder
        split: which of its splits, from 1
        subset: train or test

    Raises `DatasetError` where the layout is not the dataset's, a list is wrong, or none of the
    videos is there; `ConfigError` for a dataset that nobody registered.
    """
    layout = DATASETS[name]
    if subset not in ("train", "test"):
        raise DatasetError(f"no subset {subset!r}: choose train or test")
    if not 1 <= split <= layout.splits:
        raise DatasetError(f"no split {split}: {name} has {layout.splits}")
    if not str(root):
        raise DatasetError("no root: name the dataset's folder")
    if not Path(root).is_dir():
        raise DatasetError(f"{root}: no such folder")
    listing = layout.list_function(Path(root), split, subset)
    _check_listing(name, listing)
    once: dict[str, Listed] = {}
    missing = list(listing.missing)
    for entry in listing.listed:
        if entry.path in once:
            missing.append((entry.path, "is listed twice"))
        else:
            once[entry.path] = entry
    if not once:
        example = _example(missing, listing.hint)
        raise DatasetError(f"{root}: none of the listed videos is there ({example})")
    return listing._replace(
        classes=tuple(listing.classes), listed=tuple(once.values()), missing=tuple(missing)
    )


def _example(
    missing: list[Missing],
    hint: str,
) -> str:
    """What is said of a dataset of which no video is there: a name that was sought."""
    sought = [pair for pair in missing if pair[1] in (ABSENT, UNCLEAR)]
    first, reason = next(iter(sought or missing), ("its files", "name none"))
    return f"the first, {first}: {reason}" + (f"; {hint}" if hint else "")


def describe_renamed(
    renamed: Sequence[tuple[str, str]],
    count: int,
) -> str:
    """One line for the `renamed` of `count` videos."""
    listed, path = renamed[0]
    example = f"the list says {listed}, the disk {path}"
    return f"{len(renamed)} of {count} videos are found under another name ({example})"


def list_parts(
    name: str, root: str | os.PathLike
) -> tuple[dict[str, Listing], dict[str, DatasetError]]:
    """The parts of a dataset's splits, `1 train` and so on, and why others cannot be listed.

    Raises the first `DatasetError` where none can: the folder or the name of the dataset is wrong.
    """
    parts: dict[str, Listing] = {}
    refused: dict[str, DatasetError] = {}
    for split in range(1, number_of_splits(name) + 1):
        for subset in ("train", "test"):
            try:
                parts[f"{split} {subset}"] = list_dataset(name, root, split, subset)
            except DatasetError as error:
                refused[f"{split} {subset}"] = error
    if not parts:
        raise next(iter(refused.values()))
    return parts, refused


def _check_listing(
    name: str,
    listing: object,
) -> None:
    """`ConfigError` for what somebody's own function should not return."""
    if not isinstance(listing, Listing):
        kind = type(listing).__name__
        raise ConfigError(f"dataset {name!r}: its function returned {kind}, and not a Listing")
    for entry in listing.listed:
        if not -1 <= entry.label < len(listing.classes):
            count = len(listing.classes)
            raise ConfigError(
                f"dataset {name!r}: label {entry.label} of {entry.path}; there are {count} classes"
            )


# ---- folders and names


def find_folder(
    root: str | os.PathLike,
    names: Iterable[str],
    what: str,
) -> str:
    """The first of `names` that is a folder in `root`; `what` says what should be in it."""
    names = list(names)
    for name in names:
        if os.path.isdir(os.path.join(root, name)):
            return name
    raise DatasetError(f"{root}: no folder {' or '.join(names)} ({what})")


def refuse_unreadable(
    root: str | os.PathLike,
    missing: Iterable[Missing],
) -> None:
    """`DatasetError` for the first folder that could not be read: it may hold the videos."""
    for path, reason in missing:
        if reason.startswith(UNREADABLE):
            raise DatasetError(f"{Path(root, path)}: {reason}")


def path_inside(
    folder: str,
    name: str,
    source: object,
) -> str:
    """The path `folder/name`; `DatasetError` where the `source` of the name leads out of it."""
    if len(name) > LONGEST_PATH:
        raise DatasetError(f"{source}: {quoted(name)} is longer than a path can be")
    path = os.path.normpath(name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise DatasetError(f"{source}: {quoted(name)} leads out of the dataset")
    return os.path.join(folder, path)


def quoted(text: str) -> str:
    """Text of a list in quotes, for a message; of a long one the beginning."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def to_number(text: str) -> int | None:
    """The number that digits spell; None for other text, and for more than nine of them."""
    return int(text) if text.isdecimal() and len(text) < 10 else None
