"""HMDB51: 51 actions cut from films, in three splits.

The archive `test_train_splits.rar` gives a file for each class and split, with lines `name.avi 1`:
1 is for training, 2 for testing, 0 for neither. The classes are the names of these files.

A name says from which film the video was cut, what is done, and how it is seen:
`RATRACE_wave_f_nm_np1_fr_goo_37.avi` is number 37 of RATRACE, a wave, full body, no camera motion,
one person, from the front, good quality. The film is the group.
"""

import os
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
)
from memdpc.data.layouts.matching import list_files, match_files
from memdpc.data.layouts.walk import is_litter

__all__ = []

# The last: the archives of the classes, unpacked side by side.
VIDEO_FOLDERS = ("videos", "hmdb51_org", "hmdb51", "HMDB51", "")
_PLACES = ("", "split/", "splits/", "test_train_splits/", "splits_classification/")
LIST_FOLDERS = (
    *(f"{place}testTrainMulti_7030_splits" for place in _PLACES),
    "test_train_splits",
    "splits_classification",
    "splits",
    "split",
)
ANNOTATIONS = [f"{folder}/*_test_split?.txt" for folder in LIST_FOLDERS]
_CODES = {"train": "1", "test": "2"}  # 0: neither


def list_hmdb51(
    root: Path,
    split: int,
    subset: str,
) -> Listing:
    """HMDB51: {class}_test_split{1,2,3}.txt; videos in a folder for each class."""
    videos = find_folder(root, VIDEO_FOLDERS, "the videos, as videos/class/name.avi")
    lists = root / find_folder(root, LIST_FOLDERS, "the split files, as class_test_split1.txt")
    classes = _read_classes(lists)
    marked: list[tuple[str, Listed]] = []
    for label, class_name in enumerate(classes):
        path = lists / f"{class_name}_test_split{split}.txt"
        marked += _read_split(path, class_name, label, videos)
    listed = [entry for code, entry in marked if code == _CODES[subset]]
    if not listed:
        name = f"class_test_split{split}.txt"
        raise DatasetError(f"{lists}: no file {name} lists a video for {subset}")
    missing: list[Missing] = []
    others = [entry for code, entry in marked if code != _CODES[subset]]
    match = match_files(list_files(root, videos, listed, missing), listed, others)
    stray = [(path, f"is in no file of split {split}") for path in match.unused]
    missing += match.absent + stray
    return Listing(classes, match.there, missing, match.renamed, match.hint)


def source_film(
    name: str,
    class_name: str,
) -> str:
    """The film that a clip was cut from: what stands before the class in its name."""
    place = name.casefold().rfind(f"_{class_name}_".casefold())
    if place > 0:
        return name[:place]
    return re.split(r"_[^_]+_[fhlu]_(?:cm|nm)_np\d", name)[0]


def _read_classes(lists: Path) -> list[str]:
    """The classes of all splits together, so that a class keeps its number in each of them."""
    try:
        names = [name for name in os.listdir(lists) if not is_litter(name)]
    except OSError as error:
        raise DatasetError(f"{lists}: cannot be read ({error.strerror})") from error
    matches = [re.fullmatch(r"(.+)_test_split\d\.txt", name) for name in names]
    return sorted({match[1] for match in matches if match})


def _read_split(
    path: Path,
    class_name: str,
    label: int,
    videos: str,
) -> list[tuple[str, Listed]]:
    """(code, video) of each line `name.avi 1`; code 1 is training, 2 test, 0 neither."""
    marked: list[tuple[str, Listed]] = []
    for line in read_lines(path):
        *name, code = line.rsplit(maxsplit=1)
        if not name or code not in ("0", "1", "2"):
            raise DatasetError(f"{path}: {quoted(line)} is not a name and 0, 1 or 2")
        file = path_inside(os.path.join(videos, class_name), name[0], path)
        marked.append((code, Listed(file, label, source_film(name[0], class_name))))
    return marked
