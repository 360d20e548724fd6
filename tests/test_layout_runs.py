"""Every official layout through the commands: `scan`, one step of `pretrain`, and the sampler.

On trees of a few tiny real videos.
"""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from trees import FAILS, FILES, NAMES, oops, plant, table, texts, ucf101

from memdpc.data.clips import Clips
from memdpc.data.layouts import DATASETS, list_dataset
from memdpc.data.video import write_video
from memdpc.data.videos import load_dataset

SMALL = (
    "--preset demo --encoder tiny --img_size 32 --num_blocks 3 --block_len 2 --pred_steps 1 "
    "--mem_size 8 --batch_size 2 --max_steps 1 --val_fraction 0 --num_workers 0 --device cpu"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An index of its own for each test; processes inherit it."""
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The bytes of a video of eight frames of 32x32."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    frames = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    write_video(path, frames, codec="mpeg4", options={"g": "4"})
    return path.read_bytes()


def build_ucf101(root, data):
    """A video that a list names is missing."""
    ucf101(root, NAMES, data=data)
    (root / "videos" / NAMES[0]).unlink()
    return 5, 1


def build_hmdb51(root, data):
    """One file is empty."""
    actions = ("run", "wave")
    names = [
        f"[{film}]_&_(b);_c!_{action}_f_nm_np1_fr_goo_{i}.avi"
        for action in actions
        for film in "xy"
        for i in range(2)
    ]
    plant(root, [f"videos/{name.split('_')[-7]}/{name}" for name in names], data)
    lists = {}
    for action in actions:
        ours = [name for name in names if f"_{action}_f_" in name]
        for split in (1, 2, 3):
            number = 2 if split == 2 else 1  # 1 is training, 2 is test
            path = f"testTrainMulti_7030_splits/{action}_test_split{split}.txt"
            lists[path] = [f"{name} {number} " for name in ours]
    texts(root, lists)
    plant(root, [f"videos/run/{names[1]}"])
    return 7, 1


def build_kinetics400(root, data):
    """The table names a video that is missing, and one is in no table."""
    plant(root, [f"train/{file}" for file in FILES[:3]] + ["train/mine.mp4"], data)
    texts(root, {"annotations/train.csv": table()})
    return 3, 2


def build_folder(root, data):
    """Nothing is wrong."""
    plant(root, ["a/1.avi", "a/two words #2.mp4", "b/3.mkv", "b/4.webm"], data)
    return 4, 0


def build_csv(root, data):
    """The table for training names a video that is missing."""
    plant(root, ["a/1.avi", "two words #2.mp4", "b/3.mkv", "b/4.webm"], data)
    lines = {
        "train.csv": ["path,label", "a/1.avi,run", "two words #2.mp4,wave", "lost.mp4,run"],
        "test.csv": ["path,label", "b/3.mkv,run", "b/4.webm,wave"],
    }
    texts(root, lines)
    return 2, 1


def build_oops(root, data):
    """One file is a web page that says that the video was not found."""
    oops(root, data=data)
    lost = root / f"oops_dataset/oops_video/train/{FAILS[2]}.mp4"
    lost.write_bytes(b"<html>404 Not Found</html>")
    return 4, 1


def build_oops_filtered(root, data):
    """The same tree, of which fewer videos count."""
    build_oops(root, data)
    return 2, 1


# Each makes a tree in the layout of its dataset and gives how many videos it has, and are left out.
BUILD = {
    "ucf101": build_ucf101,
    "hmdb51": build_hmdb51,
    "kinetics400": build_kinetics400,
    "folder": build_folder,
    "csv": build_csv,
    "oops": build_oops,
    "oops-filtered": build_oops_filtered,
}


def memdpc(*args):
    """A command in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "memdpc", *map(str, args)],
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_dataset_is_tried():
    """2026-11: a layout that no command was ever tried on."""
    assert set(DATASETS) <= set(BUILD)


@pytest.mark.parametrize("name", DATASETS)
def test_loaded_and_sampled(tmp_path, name, clip):
    """What the lists say arrives in the clips: labels, order, pictures."""
    good, bad = BUILD[name](tmp_path / "d", clip)
    listing = list_dataset(name, tmp_path / "d")
    videos = load_dataset(name, tmp_path / "d", progress=False)
    assert (len(videos), len(videos.skipped)) == (good, bad)
    assert videos.classes == listing.classes
    listed = {entry.path: entry[1:] for entry in listing.listed}
    for video in videos.videos:
        assert (video.label, video.group, video.transitions) == listed[video.path]
    left_out = dict(videos.skipped)
    in_order = [entry.path for entry in listing.listed if entry.path not in left_out]
    assert [video.path for video in videos.videos] == in_order
    clips = Clips(videos, num_blocks=2, block_len=2, frame_stride=1, img_size=16)
    items = [clips[i] for i in range(len(clips))]
    assert [item["label"] for item in items] == [video.label for video in videos.videos]
    for item in items:
        assert not item["broken"]
        assert item["clip"].shape == (2, 3, 2, 16, 16) and item["clip"].any()


@pytest.mark.parametrize("name", DATASETS)
def test_scanned(tmp_path, name, clip):
    """The table has a line for each video, readable or not, and for everything left out."""
    good, bad = BUILD[name](tmp_path / "d", clip)
    where = ("--dataset", name, "--root", tmp_path / "d", "--out", tmp_path / "scan")
    shown = memdpc("scan", *where, "--num_workers", 1)
    with open(tmp_path / "scan/scan.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    videos = load_dataset(name, tmp_path / "d", progress=False)
    assert (len(videos), len(videos.skipped)) == (good, bad)
    for video in videos.videos:
        row = rows[video.path]
        assert row["status"] == "short"
        assert int(row["label"]) == video.label
        assert row["group"] == video.group
        assert "1 train" in row["splits"]
        assert row["class"] == (videos.classes[video.label] if video.label >= 0 else "")
    for path, reason in videos.skipped:
        assert rows[path]["reason"] == reason
        assert rows[path]["status"] in ("broken", "missing", "unlisted")
    lost = sum(rows[path]["status"] != "unlisted" for path, _ in videos.skipped)
    assert re.search(rf"^1 train +{good + lost} +{good} +{good} ", shown, re.M), shown


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_pretrained_for_a_step(tmp_path, name, clip):
    """One step, and the run says how many videos it had and how many were left out."""
    good, bad = BUILD[name](tmp_path / "d", clip)
    where = ("--dataset", name, "--root", tmp_path / "d", "--out", tmp_path / "run")
    memdpc("pretrain", *SMALL.split(), *where)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["videos"], metrics["skipped"], metrics["steps"]) == (good, bad, 1)
