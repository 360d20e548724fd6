"""UCF101: 13,320 videos of 101 classes in three splits.

Videos of one group were cut from one source: the same person, room and light. Hence the splits
never part a group, and neither does `memdpc.data.videos.hold_out`.
"""

import re
from pathlib import Path

from memdpc.base.errors import DatasetError
from memdpc.base.files import read_lines
from memdpc.data.layouts.listing import (
    Listed,
    Listing,
    Missing,
    find_folder,
    find_unlisted,
    match_files,
    path_inside,
)
from memdpc.data.layouts.walk import video_paths

__all__ = []

VIDEO_FOLDERS = ("videos", "UCF-101")  # UCF-101 is what the archive unpacks to
LIST_FOLDERS = ("splits_classification", "ucfTrainTestlist")  # the second is the archive's name
ANNOTATIONS = [
    f"{folder}/{name}"
    for folder in LIST_FOLDERS
    for name in ("classInd.txt", "trainlist0?.txt", "testlist0?.txt")
]


def list_ucf101(
    root: Path,
    split: int,
    subset: str,
) -> Listing:
    """UCF101: classInd.txt and {train,test}list0N.txt; videos in a folder for each class."""
    videos = find_folder(root, VIDEO_FOLDERS, "the videos, as videos/Class/name.avi")
    lists = root / find_folder(root, LIST_FOLDERS, "the split files")
    numbers = _read_classes(lists / "classInd.txt")
    listed = _read_split(lists / f"{subset}list{split:02d}.txt", numbers, videos)
    missing: list[Missing] = []
    found = video_paths(root, videos, missing)
    there, absent = match_files(found, listed)
    other_subset = "test" if subset == "train" else "train"
    other = lists / f"{other_subset}list{split:02d}.txt"
    if other.is_file():
        every = listed + _read_split(other, numbers, videos)
        missing += find_unlisted(found, every, f"is in no list of split {split}")
    return Listing(tuple(numbers), there, missing + absent)


def _read_classes(path: Path) -> dict[str, int]:
    """{class: number} of classInd.txt (lines `1 ApplyEyeMakeup`), in the order of the numbers."""
    classes: dict[str, int] = {}
    for line in read_lines(path):
        number, _, name = line.partition(" ")
        name = name.strip()
        valid = bool(name) and number.isdecimal()
        if not valid or name in classes or int(number) in classes.values():
            raise DatasetError(f"{path}: {line!r} is not a number and a name of its own")
        classes[name] = int(number)
    if not classes:
        raise DatasetError(f"{path}: lists no class")
    return dict(sorted(classes.items(), key=lambda item: item[1]))


def _read_split(
    path: Path,
    numbers: dict[str, int],
    videos: str,
) -> list[Listed]:
    """The videos of a split file: lines `Class/v_Class_g01_c01.avi 1`.

    Train lists give a class twice, as a folder and as a number; test lists have the folder alone.
    So the folder counts, and a number that disagrees with it is an error: otherwise labels that are
    off by one would train without complaint.
    """
    classes = {name.casefold(): name for name in numbers}
    labels = {name: label for label, name in enumerate(numbers)}
    listed: list[Listed] = []
    for line in read_lines(path):
        name, number = _split_line(line)
        class_name = classes.get(name.split("/")[0].casefold())
        if class_name is None:
            raise DatasetError(f"{path}: {line!r} names a class that classInd.txt lacks")
        right = numbers[class_name]
        if number and int(number) != right:
            known = f"the number of {class_name} is {right} in classInd.txt"
            raise DatasetError(f"{path}: {line!r}: {known}")
        group = re.search(r"_(g\d+)_c\d+", name)
        file = path_inside(videos, name, path)
        listed.append(Listed(file, labels[class_name], group[1] if group else ""))
    if not listed:
        raise DatasetError(f"{path}: lists no video")
    return listed


def _split_line(line: str) -> tuple[str, str]:
    """`name 1` as (name, "1"); a line without a number as (name, "")."""
    numbered = re.fullmatch(r"(.+?)\s+(\d+)", line)
    if numbered:
        return numbered[1], numbered[2]
    return line, ""
