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
    path_inside,
    quoted,
    to_number,
)
from memdpc.data.layouts.matching import list_files, match_files

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
    other_subset = "test" if subset == "train" else "train"
    other = lists / f"{other_subset}list{split:02d}.txt"
    others = _read_split(other, numbers, videos) if other.is_file() else []
    missing: list[Missing] = []
    match = match_files(list_files(root, videos, listed, missing), listed, others)
    if others:
        missing += [(path, f"is in no list of split {split}") for path in match.unused]
    missing += match.absent
    return Listing(tuple(numbers), match.there, missing, match.renamed, match.hint)


def _read_classes(path: Path) -> dict[str, int]:
    """{class: number} of classInd.txt (lines `1 ApplyEyeMakeup`), in the order of the numbers."""
    classes: dict[str, int] = {}
    taken: set[int] = set()
    for line in read_lines(path):
        digits, _, name = line.partition(" ")
        name = name.strip()
        number = to_number(digits)
        if not name or number is None or name in classes or number in taken:
            raise DatasetError(f"{path}: {quoted(line)} is not a number and a name of its own")
        classes[name] = number
        taken.add(number)
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
            unknown = "names a class that classInd.txt lacks"
            raise DatasetError(f"{path}: {quoted(line)} {unknown}")
        right = numbers[class_name]
        if number and to_number(number) != right:
            known = f"the number of {class_name} is {right} in classInd.txt"
            raise DatasetError(f"{path}: {quoted(line)}: {known}")
        file = path_inside(videos, name, path)
        group = re.search(r"_(g\d+)_c\d+", name)
        listed.append(Listed(file, labels[class_name], group[1] if group else ""))
    if not listed:
        raise DatasetError(f"{path}: lists no video")
    return listed


def _split_line(line: str) -> tuple[str, str]:
    """`name 1` as (name, "1"); a line without a number as (name, "")."""
    name, *number = line.rsplit(maxsplit=1)
    if number and number[0].isdecimal():
        return name, number[0]
    return line, ""
