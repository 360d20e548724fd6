"""Hidden folders and litter: no classes, no labels, no training videos, in any layout."""

import errno
import os

import pytest
from trees import (
    LAYOUTS,
    NAMES,
    ROWS,
    build,
    grey_video,
    oops,
    paths,
    plant,
    refused,
    texts,
    ucf101,
)

from memdpc.base.config import PrepareConfig, ScanConfig
from memdpc.base.errors import DatasetError
from memdpc.data.layouts import Listed, list_dataset, video_paths, walk
from memdpc.data.layouts.walk import is_litter
from memdpc.data.prepare import prepare
from memdpc.data.scan import scan

LITTER = [
    ".ipynb_checkpoints",
    ".Trash-1000",
    ".AppleDouble",
    ".git",
    "@eaDir",
    "@EADIR",
    "#recycle",
    "__MACOSX",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    "__pycache__",
]


def listings(name, root):
    subsets = ["train"] if name == "folder" else ["train", "test"]
    return [list_dataset(name, root, subset=subset) for subset in subsets]


@pytest.mark.parametrize("name", LAYOUTS)
def test_litter_everywhere_changes_nothing(tmp_path, name):
    """2026-11: `.ipynb_checkpoints` became class 0 of Kinetics, and all labels shifted by one."""
    root = build(name, tmp_path / "it")
    before = listings(name, root)
    folders = {folder for folder, _, _ in os.walk(root)}
    for folder in folders:
        for litter in LITTER:
            plant(folder, [f"{litter}/deep/x.mp4", f"{litter}/x-checkpoint.avi"])
        plant(folder, ["._x.mp4", ".DS_Store", "Thumbs.db", "desktop.ini", "x.mp4.part"])
    assert listings(name, root) == before
    assert all(is_litter(path.split("/")[0]) is False for path in video_paths(root))


def test_litter_becomes_no_split_file(tmp_path):
    """macOS writes `._wave_test_split1.txt` beside wave_test_split1.txt on foreign disks."""
    root = build("hmdb51", tmp_path / "H")
    lists = root / "test_train_splits/testTrainMulti_7030_splits"
    for path in list(lists.iterdir()):
        (lists / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert list_dataset("hmdb51", root).classes == ("run", "wave")


@pytest.mark.parametrize("top", ["videos/", ""])
def test_kinetics400_by_folders(tmp_path, top):
    """An empty class keeps its number, which is that of the whole dataset, and is named."""
    parts = [f"{top}train_split", f"{top}val_split"]
    classes = ("abseiling", "yoga", "zumba")
    names = [f"{part}/{name}/1.mp4" for part in parts for name in classes[::2]]
    root = plant(tmp_path / "k", names)
    for part in parts:
        plant(root, [f"{part}/{litter}/x.mp4" for litter in LITTER])
        (root / part / ".empty").mkdir()
    assert [listing.classes for listing in listings("kinetics400", root)] == [classes[::2]] * 2
    (root / parts[0] / "yoga").mkdir()
    train, test = listings("kinetics400", root)
    assert train.classes == test.classes == classes
    assert (
        [entry.label for entry in train.listed] == [entry.label for entry in test.listed] == [0, 2]
    )
    assert train.missing == ((f"{parts[0]}/yoga", "holds no video"),)
    assert test.missing == ()


def test_folder_names_empty_classes(tmp_path):
    """Any folder of videos: a class is what holds some; the others are named."""
    root = plant(tmp_path / "f", ["a/1.mp4", "b/2.mp4", "notes/readme.txt"])
    found = list_dataset("folder", root)
    assert found.classes == ("a", "b")
    assert found.missing == (("notes", "holds no video"),)
    names = ["train/a/1.mp4", "train/c/2.mp4", "train/b/readme.txt", "test/a/3.mp4", "test/d/x.txt"]
    train, test = (
        list_dataset("folder", plant(tmp_path / "t", names), subset=subset)
        for subset in ("train", "test")
    )
    assert train.classes == test.classes == ("a", "c")
    assert train.missing == (("train/b", "holds no video"),)
    assert test.missing == (("test/d", "holds no video"),)


def test_hidden_folders_beside_train(tmp_path):
    """A cache beside `train` made all of it one unlabelled heap."""
    root = plant(tmp_path / "f", ["train/a/1.mp4", "train/b/2.mp4", ".cache/3.mp4", "@eaDir/4.mp4"])
    assert list_dataset("folder", root).classes == ("a", "b")


def test_a_hidden_root_is_a_root(tmp_path):
    root = plant(tmp_path / ".data/@eaDir", ["a/1.mp4", "b/2.mp4"])
    assert paths(list_dataset("folder", root)) == ["a/1.mp4", "b/2.mp4"]
    text = refused("folder", plant(tmp_path / "f", [".hidden/1.mp4"]))
    assert "no video files" in text
    assert "outside hidden folders" in text


def test_what_a_list_names_counts_wherever_it_is(tmp_path):
    """The user named it; and titles of Oops! may begin with a dot."""
    names = [".hidden/1.mp4", "a/.2.mp4", "@eaDir/3.mp4"]
    root = plant(tmp_path / "c", [*names, ".hidden/other.mp4"])
    texts(root, {"train.csv": ["path,label", *(f"{name},run" for name in names)]})
    found = list_dataset("csv", root)
    assert paths(found) == names
    assert not found.missing
    fails = oops(tmp_path / "O")
    for name in "train", "train_filtered":
        texts(fails, {f"oops_dataset/annotations/{name}.txt": ["...and he fell"]})
    plant(fails, ["oops_dataset/oops_video/train/...and he fell.mp4"])
    assert paths(list_dataset("oops", fails)) == [
        "oops_dataset/oops_video/train/...and he fell.mp4"
    ]
    lists = {"trainlist01": ["Archery/.v_Archery_g01_c01.avi 1", f"{NAMES[1]} 1"]}
    tree = ucf101(tmp_path / "U", [NAMES[1], "Archery/.v_Archery_g01_c01.avi"], lists=lists)
    assert list_dataset("ucf101", tree).listed[0] == Listed(
        "videos/Archery/.v_Archery_g01_c01.avi", 0, "g01"
    )


def test_names_that_only_look_like_litter(tmp_path):
    """HMDB51 has #437_How_To_Ride_A_Bike, Kinetics ids begin with - and _."""
    for name in (
        "#437_How_To.avi",
        "-3B32lodo2M.mp4",
        "_bbbb.mp4",
        "@home.mp4",
        "recycling",
        ROWS[0][0],
    ):
        assert not is_litter(name)


def test_scan_and_prepare_pass_it_over(tmp_path):
    root = tmp_path / "f"
    data = grey_video(root / "a/1.mp4").read_bytes()
    plant(root, ["@eaDir/2.mp4", "a/._1.mp4", ".Trash-1000/files/3.mp4"], data)
    report = scan(ScanConfig("folder", str(root), num_workers=0))
    assert report.counts[""] == {"short": 1}
    job = PrepareConfig(
        "folder", str(root), out=str(tmp_path / "out"), short_side=16, num_workers=0
    )
    assert prepare(job).kept == ("a/1.mp4",)
    assert video_paths(tmp_path / "out") == ["a/1.mp4"]


@pytest.mark.parametrize("name, made", [("folder", "a"), ("kinetics400", "train/a")])
def test_a_folder_that_cannot_be_read_is_not_called_empty(tmp_path, monkeypatch, name, made):
    """2026-11: of a disk that did not answer it was said that it holds no video files."""
    (tmp_path / made).mkdir(parents=True)

    def fail(root, folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(walk, "_read_folder", fail)
    with pytest.raises(DatasetError, match="is a folder that cannot be read"):
        list_dataset(name, tmp_path)
