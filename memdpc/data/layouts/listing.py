"""What all layouts share: what comes out, names that are compared, and the registry.

A *split* divides a dataset into two *subsets*, `train` and `test`; UCF101 and HMDB51 have three
splits. Let L be the names that the dataset's files give for a subset, A those for both subsets, and
F the video files that are there.

| set | what becomes of it |
|---|---|
| in L and in F | *listed*: these are the videos, in the order of the lists |
| in L, not in F | *missing*, "no such file": the download is not complete |
| in F, not in A | *missing*, "is in no list" or the like: it has no label |

So nothing that is listed is dropped without being named.
"""

import glob
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from memdpc.base.errors import ConfigError, DatasetError
from memdpc.base.registry import Registry

__all__ = []

Missing = tuple[str, str]  # (name, reason)


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
    return sorted(found)


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
        first, reason = missing[0] if missing else ("its files", "name none")
        example = f"the first, {first}: {reason}"
        raise DatasetError(f"{root}: none of the listed videos is there ({example})")
    return Listing(tuple(listing.classes), tuple(once.values()), tuple(missing))


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


def path_inside(
    folder: str,
    name: str,
    source: object,
) -> str:
    """The path `folder/name`; `DatasetError` where the `source` of the name leads out of it."""
    path = os.path.normpath(name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise DatasetError(f"{source}: {name!r} leads out of the dataset")
    return os.path.join(folder, path)


def normalize_name(name: str) -> str:
    """What stays of a name when case and Unicode's normal form do not count.

    UCF101 spells one name in two ways: the class is `HandstandPushups`, its videos are
    `v_HandStandPushups_g01_c01.avi`, and copies differ in the folder's name. Oops! has names with
    accents, which some file systems store as one character and others as two.
    """
    return unicodedata.normalize("NFC", name).casefold()


def match_files(
    found: Iterable[str], listed: Iterable[Listed]
) -> tuple[list[Listed], list[Missing]]:
    """The `Listed` whose files are among the paths `found`, as spelled there, and those absent.

    Names are compared, never searched for: a glob would take `[2]` in a name for a pattern. Where
    no file has the listed name, one will do that differs only in case or normal form, and is not
    listed itself.
    """
    listed = list(listed)
    files = set(found)
    names = {entry.path for entry in listed}
    alike = {normalize_name(path): path for path in found if path not in names}
    there: list[Listed] = []
    absent: list[Missing] = []
    for entry in listed:
        if entry.path in files:
            there.append(entry)
            continue
        path = alike.get(normalize_name(entry.path))
        if path is None:
            absent.append((entry.path, "no such file"))
        else:
            there.append(entry._replace(path=path))
    return there, absent


def find_unlisted(
    found: Iterable[str],
    listed: Iterable[Listed],
    reason: str,
) -> list[Missing]:
    """(path, reason) of each path in `found` that is the file of none of `listed`."""
    found = list(found)
    there, _ = match_files(found, listed)
    used = {entry.path for entry in there}
    return [(path, reason) for path in found if path not in used]
