"""Where each dataset keeps its videos, and what its own files say of them."""

import csv
import glob
import json
import logging
import os
import re
import unicodedata
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

from memdpc.base.errors import DatasetError
from memdpc.base.files import read_lines, read_text

logger = logging.getLogger(__name__)


class Listed(NamedTuple):
    "A video that is there, and what the dataset's files say of it"

    path: str  # relative to the dataset's folder
    label: int = -1  # index into the dataset's classes; -1: none
    group: str = ""  # videos of one group share their source; '': the dataset has no groups
    transitions: tuple[
        float, ...
    ] = ()  # Oops!: when the action goes wrong, for each annotator, in seconds; -1: it does not


class Listing(NamedTuple):
    "What a dataset's own files say"

    classes: tuple[str, ...]  # () where there are no labels
    listed: tuple[Listed, ...]  # in the order of the files
    missing: tuple[
        tuple[str, str], ...
    ] = ()  # (name, reason): named and not there, or there and not to be placed


def existing(root, names, what):
    "The first of `names` that is a folder in `root`; `what` says what should be in it"
    for name in names:
        if os.path.isdir(os.path.join(root, name)):
            return name
    raise DatasetError(f"{root}: no folder {' or '.join(names)} ({what})")


def inside(folder, name, source):
    "The path `folder/name`; `source`, which gives the name, cannot lead out of the dataset"
    path = os.path.normpath(name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise DatasetError(f"{source}: {name!r} leads out of the dataset")
    return os.path.join(folder, path)


VIDEO_SUFFIXES = frozenset(
    [
        ".avi",
        ".mp4",
        ".mkv",
        ".webm",
        ".mov",
        ".m4v",
        ".mpg",
        ".mpeg",
        ".m2v",
        ".wmv",
        ".asf",
        ".flv",
        ".3gp",
        ".3g2",
        ".ts",
        ".mts",
        ".m2ts",
        ".vob",
        ".ogv",
        ".divx",
    ]
)


def holds(folder, place):
    "Whether the real path `place` is `folder` or lies below it"
    return os.path.join(place, "").startswith(os.path.join(folder, ""))


def is_folder(entry):
    "Whether an entry of a listing is a folder, or a link to one"
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def look_into(root, folder):
    "`(videos, folders, links to folders)` right in `root/folder`, as paths relative to `root`"
    videos, folders, links = [], [], []
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if is_folder(entry):
                (links if entry.is_symlink() else folders).append(path)
            elif os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
                videos.append(path)
    return videos, folders, links


def below(root, folder="", missing=None):
    "Sorted paths, relative to `root`, of the video files below `root/folder`; `missing` takes (path, reason) of folders not entered"
    missing, start = (
        [] if missing is None else missing,
        os.path.realpath(os.path.join(root, folder)),
    )
    found, seen, queue = [], set(), [(False, folder)]  # (is it a link?, path)
    while queue:
        link, name = heappop(queue)  # links last: a folder's own name goes before its other names
        holder, real = (
            os.path.realpath(os.path.join(root, path)) for path in (os.path.dirname(name), name)
        )
        if link and (holds(real, holder) or holds(real, start)):
            missing.append((name, "is a link to a folder that holds it"))
        elif real in seen:
            missing.append((name, "is a folder that is listed already, under another name"))
        else:
            seen.add(real)
            try:
                videos, folders, links = look_into(root, name)
            except OSError as error:
                missing.append((name, f"is a folder that cannot be read ({error.strerror})"))
            else:
                found += videos
                for path in folders:
                    heappush(queue, (False, path))
                for path in links:
                    heappush(queue, (True, path))
    return sorted(found)


def loose(name):
    "What stays of a name when case and Unicode's normal form do not count"
    return unicodedata.normalize("NFC", name).casefold()


def compare(found, listed):
    "`(there, absent)`: the `Listed` whose files are among the paths `found`, as those are spelled, and (path, reason) of the others"
    files, names = set(found), {entry.path for entry in listed}
    alike = {loose(path): path for path in found if path not in names}
    there, absent = [], []
    for entry in listed:
        path = entry.path if entry.path in files else alike.get(loose(entry.path))
        if path is None:
            absent.append((entry.path, "no such file"))
        else:
            there.append(entry if path == entry.path else entry._replace(path=path))
    return there, absent


def unlisted(found, listed, reason):
    "(path, reason) of each path in `found` that is the file of none of `listed`"
    used = {entry.path for entry in compare(found, listed)[0]}
    return [(path, reason) for path in found if path not in used]


def read_classes(path):
    "`{class: number}` of UCF101's classInd.txt (lines `1 ApplyEyeMakeup`), in the order of the numbers"
    classes = {}
    for line in read_lines(path):
        number, name = (line.split(maxsplit=1) + [""])[:2]
        if not name or not number.isdecimal() or name in classes or int(number) in classes.values():
            raise DatasetError(f"{path}: {line!r} is not a number and a name of its own")
        classes[name] = int(number)
    if not classes:
        raise DatasetError(f"{path}: lists no class")
    return dict(sorted(classes.items(), key=lambda item: item[1]))


def read_split(path, numbers, videos):
    "`[Listed]` of a UCF101 split file: lines `Class/v_Class_g01_c01.avi 1` (test lists have no number), for files in the folder `videos`"
    classes, listed = {name.casefold(): (index, name) for index, name in enumerate(numbers)}, []
    for line in read_lines(path):
        name, number = re.fullmatch(r"(.+?)(?:\s+(\d+))?", line).groups()
        label, class_name = classes.get(name.split("/")[0].casefold(), (None, ""))
        if label is None:
            raise DatasetError(f"{path}: {line!r} names a class that classInd.txt lacks")
        if number and int(number) != numbers[class_name]:
            raise DatasetError(
                f"{path}: {line!r}: the number of {class_name} is {numbers[class_name]} in classInd.txt"
            )
        group = re.search(r"_(g\d+)_c\d+", name)
        listed.append(Listed(inside(videos, name, path), label, group[1] if group else ""))
    if not listed:
        raise DatasetError(f"{path}: lists no video")
    return listed


UCF101_VIDEOS = "videos", "UCF-101"  # UCF-101 is what the archive unpacks to


UCF101_SPLITS = (
    "splits_classification",
    "ucfTrainTestlist",
)  # both names are in use; the second is the archive's


def list_ucf101(root, split, subset):
    "UCF101: classInd.txt and {train,test}list0N.txt, and videos in a folder for each class"
    videos, missing = existing(root, UCF101_VIDEOS, "the videos, as videos/Class/name.avi"), []
    splits = Path(root, existing(root, UCF101_SPLITS, "the split files"))
    numbers, lists = (
        read_classes(splits / "classInd.txt"),
        {name: splits / f"{name}list{split:02d}.txt" for name in ("train", "test")},
    )
    listed, found = read_split(lists[subset], numbers, videos), below(root, videos, missing)
    there, absent = compare(found, listed)
    other = lists["test" if subset == "train" else "train"]
    if other.is_file():
        missing += unlisted(
            found, listed + read_split(other, numbers, videos), f"is in no list of split {split}"
        )
    return Listing(tuple(numbers), there, missing + absent)


HMDB51_VIDEOS = (
    "videos",
    "hmdb51_org",
    "hmdb51",
    "HMDB51",
    "",
)  # '': the archives of the classes, unpacked side by side


HMDB51_SPLITS = [
    f"{top}testTrainMulti_7030_splits"
    for top in ("", "split/", "splits/", "test_train_splits/", "splits_classification/")
]


HMDB51_SPLITS += ["test_train_splits", "splits_classification", "splits", "split"]


def source_film(name, class_name):
    "The film that an HMDB51 clip was cut from: what stands before the class in its name"
    place = name.casefold().rfind(f"_{class_name}_".casefold())
    return name[:place] if place > 0 else re.split(r"_[^_]+_[fhlu]_(?:cm|nm)_np\d", name)[0]


def read_hmdb51(path, class_name, label, videos):
    "`[(number, Listed)]` of a split file of HMDB51: lines `name.avi 1`; number 1 is training, 2 test, 0 neither"
    pairs = []
    for line in read_lines(path):
        name, number = (line.rsplit(maxsplit=1) + [""])[:2]
        if number not in ("0", "1", "2"):
            raise DatasetError(f"{path}: {line!r} is not a name and 0, 1 or 2")
        file = inside(os.path.join(videos, class_name), name, path)
        pairs.append((int(number), Listed(file, label, source_film(name, class_name))))
    return pairs


def list_hmdb51(root, split, subset):
    "HMDB51: {class}_test_split{1,2,3}.txt, and videos in a folder for each class"
    videos, missing = existing(root, HMDB51_VIDEOS, "the videos, as videos/class/name.avi"), []
    splits = Path(root, existing(root, HMDB51_SPLITS, "the split files, as class_test_split1.txt"))
    names = [re.fullmatch(r"(.+)_test_split\d\.txt", name) for name in os.listdir(splits)]
    classes = sorted(
        {match[1] for match in names if match}
    )  # of all splits: a class keeps its number
    files = [splits / f"{name}_test_split{split}.txt" for name in classes]
    pairs = [
        pair
        for label, path in enumerate(files)
        for pair in read_hmdb51(path, classes[label], label, videos)
    ]
    listed = [entry for number, entry in pairs if number == (1 if subset == "train" else 2)]
    if not listed:
        raise DatasetError(
            f"{splits}: no file class_test_split{split}.txt lists a video for {subset}"
        )
    found = below(root, videos, missing)
    there, absent = compare(found, listed)
    stray = unlisted(found, [entry for _, entry in pairs], f"is in no file of split {split}")
    return Listing(tuple(classes), there, missing + absent + stray)


KINETICS_NAMES = {"train": ("train",), "test": ("val", "validate", "validation")}


KINETICS_PARTS = {
    subset: [f"{top}{name}" for top in ("videos/", "") for name in (f"{names[0]}_split", *names)]
    for subset, names in KINETICS_NAMES.items()
}


KINETICS_TABLES = {
    subset: [
        f"{top}{prefix}{name}.csv"
        for top in ("", "annotations/", "kinetics400/")
        for name in names
        for prefix in ("", "kinetics_", "kinetics400_", "kinetics-400_")
    ]
    for subset, names in KINETICS_NAMES.items()
}


def first_there(root, names):
    "The first of `names` that is there in `root`, or None"
    return next((name for name in names if os.path.exists(os.path.join(root, name))), None)


def read_table(path):
    "`{file name without suffix: class}` of a table of Kinetics: columns label, youtube_id, time_start, time_end"
    table, rows = {}, csv.DictReader(read_text(path).split("\n"), strict=True)
    try:
        for name in ("label", "youtube_id", "time_start", "time_end"):
            if name not in (rows.fieldnames or ()):
                raise ValueError(f"there is no column {name!r}")
        for row in rows:
            start, end = int(row["time_start"]), int(row["time_end"])
            if not row["label"] or not row["youtube_id"]:
                raise ValueError("no label or no youtube_id")
            table[f"{row['youtube_id']}_{start:06d}_{end:06d}"] = row["label"]
    except (csv.Error, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: line {rows.line_num}: {error}") from None
    if not table:
        raise DatasetError(f"{path}: lists no video")
    return table


def list_kinetics400(root, split, subset):
    "Kinetics-400: by its tables where they are, else by folders, `videos/{train_split,val_split}/class/name.mp4`; validation is the test"
    part, missing = existing(root, KINETICS_PARTS[subset], "the videos"), []
    found = below(root, part, missing)
    if not found:
        raise DatasetError(f"{root}/{part}: no video files")
    tables = {
        name: path for name, names in KINETICS_TABLES.items() if (path := first_there(root, names))
    }
    if not tables:
        return by_folder(root, part, found, missing)
    if subset not in tables:
        raise DatasetError(
            f"{root}: {', '.join(tables.values())} lies here, but no {KINETICS_TABLES[subset][0]}"
        )
    labels = {name: read_table(Path(root, path)) for name, path in tables.items()}
    classes = sorted({label for table in labels.values() for label in table.values()})
    numbers, files = (
        {name: index for index, name in enumerate(classes)},
        {Path(path).stem: path for path in found},
    )
    there = [
        Listed(files[name], numbers[label])
        for name, label in labels[subset].items()
        if name in files
    ]
    missing += [(f"{name}.mp4", "no such file") for name in labels[subset] if name not in files]
    return Listing(
        tuple(classes), there, missing + unlisted(found, there, f"is not in {tables[subset]}")
    )


def by_folder(root, part, found, missing):
    "A part of Kinetics-400 without a table"
    parts = filter(None, (first_there(root, names) for names in KINETICS_PARTS.values()))
    classes = sorted(
        {
            entry.name
            for name in parts
            for entry in os.scandir(os.path.join(root, name))
            if is_folder(entry)
        }
    )
    numbers, names = (
        {name: index for index, name in enumerate(classes)},
        [path[len(part) + 1 :].split(os.sep) for path in found],
    )
    missing += [
        (path, f"lies in no class, as {part}/class/name.mp4")
        for path, name in zip(found, names)
        if len(name) == 1
    ]
    return Listing(
        tuple(classes),
        [Listed(path, numbers[name[0]]) for path, name in zip(found, names) if len(name) > 1],
        missing,
    )


def read_transitions(path):
    "`{name: times in seconds}` of Oops!'s transition_times.json; names in the normal form NFC"
    try:
        table = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is no JSON ({error})") from None
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: is no table of names")
    times = {}
    for name, entry in table.items():
        t = entry.get("t") if isinstance(entry, dict) else None
        if not isinstance(t, list) or not all(
            type(value) in (int, float) and (value == -1 or 0 <= value < 1e6) for value in t
        ):
            raise DatasetError(f'{path}: {name!r} has no list "t" of times in seconds (-1: none)')
        times[unicodedata.normalize("NFC", name)] = tuple(map(float, t))
    return times


def read_names(path):
    "The lines of a list of Oops!: names, which may begin or end with a space"
    return [line for line in read_text(path).split("\n") if line.strip()]


def list_oops(root, split, subset, suffix=""):
    "Oops!: annotations/{train,val}.txt, names without `.mp4`, and the moments in which the action goes wrong; validation is the test"
    top, part, missing = (
        "oops_dataset" if Path(root, "oops_dataset").is_dir() else "",
        "train" if subset == "train" else "val",
        [],
    )
    videos = existing(
        root,
        [os.path.join(top, "oops_video", part)],
        f"the videos, as oops_dataset/oops_video/{part}/name.mp4",
    )
    notes = Path(
        root,
        existing(root, [os.path.join(top, "annotations")], "the lists and transition_times.json"),
    )
    times, names = read_transitions(notes / "transition_times.json"), {}
    for name in ("train", "val", f"{part}{suffix}"):
        names[name] = read_names(notes / f"{name}.txt")
    if not names[part + suffix]:
        raise DatasetError(f"{notes}/{part}{suffix}.txt: lists no video")

    def listed(name):
        return Listed(
            inside(videos, f"{name}.mp4", notes),
            -1,
            "",
            times.get(unicodedata.normalize("NFC", name), ()),
        )

    found = below(root, videos, missing)
    there, absent = compare(found, [listed(name) for name in names[part + suffix]])
    every = {unicodedata.normalize("NFC", name) for name in names["train"] + names["val"]}
    missing += [(name, "has times, and is in no list") for name in times if name not in every]
    return Listing(
        (),
        there,
        missing
        + absent
        + unlisted(found, [listed(name) for name in names[part]], f"is not in {part}.txt"),
    )


def list_oops_filtered(root, split, subset):
    "Oops! as its own paper uses it: the videos that passed the quality control, annotations/{train,val}_filtered.txt"
    return list_oops(root, split, subset, "_filtered")


def list_folder(root, split, subset):
    "Videos at any depth, labelled by folder if each lies at `root/class/name`; all are for training"
    if subset != "train":
        raise DatasetError(
            f"{root}: a plain folder has no test videos; arrange them as ucf101, with split files"
        )
    missing = []
    found = below(root, "", missing)
    if not found:
        raise DatasetError(f"{root}: no video files ({' '.join(sorted(VIDEO_SUFFIXES))})")
    folders = [path.rpartition(os.sep)[0] for path in found]
    classes = sorted(set(folders)) if all(name and os.sep not in name for name in folders) else []
    numbers = {name: index for index, name in enumerate(classes)}
    return Listing(
        tuple(classes),
        [Listed(path, numbers.get(name, -1)) for path, name in zip(found, folders)],
        missing,
    )


DATASETS = {
    "ucf101": list_ucf101,
    "hmdb51": list_hmdb51,
    "kinetics400": list_kinetics400,
    "oops": list_oops,
    "oops-filtered": list_oops_filtered,
    "folder": list_folder,
}


SPLITS = dict.fromkeys(DATASETS, 1) | {"ucf101": 3, "hmdb51": 3}


def list_dataset(
    name,  # one of `DATASETS`
    root,  # its folder
    split=1,  # which of the dataset's splits
    subset="train",
):  # or 'test'
    """The `Listing` of a dataset, from its own files; no video is opened.

    Raises `DatasetError` where the layout is not the dataset's, a list is wrong, or none of the videos is there.
    """
    if name not in DATASETS:
        raise DatasetError(f"no dataset {name!r}: choose one of {', '.join(DATASETS)}")
    if subset not in ("train", "test"):
        raise DatasetError(f"no subset {subset!r}: choose train or test")
    if not 1 <= split <= (most := SPLITS.get(name, 1)):
        raise DatasetError(f"no split {split}: {name} has {most}")
    if not str(root):
        raise DatasetError("no root: name the dataset's folder")
    if not Path(root).is_dir():
        raise DatasetError(f"{root}: no such folder")
    classes, listed, missing = DATASETS[name](Path(root), split, subset)
    once, missing = {}, list(missing)
    for entry in listed:
        if once.setdefault(entry.path, entry) is not entry:
            missing.append((entry.path, "is listed twice"))
    if not once:
        name, reason = (*missing, ("its files", "name none"))[0]
        raise DatasetError(
            f"{root}: none of the listed videos is there (the first, {name}: {reason})"
        )
    return Listing(classes, tuple(once.values()), tuple(missing))


ANNOTATIONS = {
    "ucf101": [
        f"{folder}/{name}"
        for folder in UCF101_SPLITS
        for name in ("classInd.txt", "trainlist0?.txt", "testlist0?.txt")
    ],
    "hmdb51": [f"{folder}/*_test_split?.txt" for folder in HMDB51_SPLITS],
    "kinetics400": sum(KINETICS_TABLES.values(), []),
    "oops": [
        f"{folder}annotations/{name}"
        for folder in ("oops_dataset/", "")
        for name in ("*.txt", "*.json")
    ],
}


def annotation_files(name, root):
    "Paths, relative to `root`, of the files that name the videos of a dataset: a copy of it needs them in the same places"
    patterns = ANNOTATIONS.get(name.removesuffix("-filtered"), [])
    return sorted(path for pattern in patterns for path in glob.glob(pattern, root_dir=root))
