"""Any folder of videos: `train/class/name.mp4` and `test/class/name.mp4`, or less order than that.

| arrangement | train | test |
|---|---|---|
| `train/class/name.mp4`, `test/class/name.mp4` (or `val`) | labelled by folder | likewise |
| `class/name.mp4` | all, labelled by folder | none |
| anything else | all, at any depth, without labels | none |

A folder without videos in it is no class, and is named. One that cannot be read for the moment is
a class, lest the others change their numbers.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from memdpc.base.errors import DatasetError
from memdpc.data.layouts.listing import EMPTY, Listed, Listing, Missing, refuse_unreadable
from memdpc.data.layouts.walk import UNREADABLE, VIDEO_SUFFIXES, folder_names, video_paths

__all__ = []

TEST_FOLDERS = ("test", "val")


def list_folder(
    root: Path,
    split: int,
    subset: str,
) -> Listing:
    """Videos labelled by folder, in `train` and `test` where there are such folders."""
    folders = folder_names(root)
    test = next((name for name in TEST_FOLDERS if name in folders), None)
    if "train" in folders and (test is not None or folders == ["train"]):
        return _list_parts(root, test, subset)
    if subset != "train":
        raise DatasetError(
            f"{root}: a plain folder has no test videos; arrange it as train/class/name.mp4 and "
            "test/class/name.mp4, or name the videos in train.csv and test.csv (--dataset csv)"
        )
    return _list_plain(root)


def _list_plain(root: Path) -> Listing:
    """All for training; labelled by folder if each video lies at class/name."""
    missing: list[Missing] = []
    found = _some_videos(root, "", missing)
    folders = [os.path.dirname(path) for path in found]
    labelled = all(name and os.sep not in name for name in folders)
    classes: list[str] = []
    if labelled:
        missing += _empty_folders(root, "", missing, folders)
        classes = sorted({*folders, *_unread_folders("", missing)})
    numbers = {name: number for number, name in enumerate(classes)}
    listed = [Listed(path, numbers.get(name, -1)) for path, name in zip(found, folders)]
    return Listing(classes, listed, missing)


def _list_parts(
    root: Path,
    test: str | None,
    subset: str,
) -> Listing:
    """The videos of `train`, or of the folder `test`; the classes are the folders in `train`.

    Both are without labels where no video in `train` lies in a folder of its class.
    """
    if subset == "test" and test is None:
        raise DatasetError(f"{root}: no folder test or val beside train")
    part = "train" if subset == "train" else str(test)
    missing: list[Missing] = []
    found = _some_videos(root, part, missing)
    absent: list[Missing] = []
    trained = _some_videos(root, "train", absent)
    known = {_class_of(path) for path in trained} - {""}
    if not known:
        return Listing((), [Listed(path) for path in found], missing)
    missing += _empty_folders(root, part, missing, map(_class_of, found))
    classes = sorted({*known, *_unread_folders("train", absent)})
    numbers = {name: number for number, name in enumerate(classes)}
    listed: list[Listed] = []
    for path in found:
        name = _class_of(path)
        if not name:
            missing.append((path, f"lies in no class, as {part}/class/name.mp4"))
        elif name in numbers:
            listed.append(Listed(path, numbers[name]))
        else:
            raise DatasetError(f"{root}: {part} has the class {name!r}, which train lacks")
    return Listing(classes, listed, missing)


def _some_videos(
    root: Path,
    folder: str,
    missing: list[Missing],
) -> list[str]:
    found = video_paths(root, folder, missing)
    if not found:
        refuse_unreadable(root, missing)
        kinds = " ".join(sorted(VIDEO_SUFFIXES))
        raise DatasetError(f"{root / folder}: no video files ({kinds}) outside hidden folders")
    return found


def _unread_folders(
    part: str,
    missing: list[Missing],
) -> list[str]:
    """The names of the folders right in `part` that could not be read."""
    unread = [path for path, reason in missing if reason.startswith(UNREADABLE)]
    return [os.path.basename(path) for path in unread if os.path.dirname(path) == part]


def _empty_folders(
    root: Path,
    part: str,
    missing: list[Missing],
    used: Iterable[str],
) -> list[Missing]:
    """(path, reason) of the folders right in `root/part` that are not `used`, nor missing yet."""
    known = {os.path.join(part, name) for name in used} | {path for path, _ in missing}
    paths = [os.path.join(part, name) for name in folder_names(root / part)]
    return [(path, EMPTY) for path in paths if path not in known]


def _class_of(path: str) -> str:
    """The second folder of `train/class/.../name.mp4`; '' where there is none."""
    names = path.split(os.sep)
    return names[1] if len(names) > 2 else ""
