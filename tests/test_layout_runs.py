"""Every official layout through the commands: `scan`, one step of `pretrain`, and the sampler, on trees of a few tiny real videos."""

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

SMALL = [
    "--preset",
    "demo",
    "--encoder",
    "tiny",
    "--img_size",
    "32",
    "--num_blocks",
    "3",
    "--block_len",
    "2",
    "--pred_steps",
    "1",
    "--mem_size",
    "8",
    "--batch_size",
    "2",
    "--max_steps",
    "1",
    "--val_fraction",
    "0",
    "--num_workers",
    "0",
    "--device",
    "cpu",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An index of its own for each test; processes inherit it."""
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The bytes of a video of eight frames of 32x32."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    write_video(
        path,
        np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8),
        codec="mpeg4",
        options={"g": "4"},
    )
    return path.read_bytes()


def build(name, root, data):
    """A tree in the layout of a dataset; in each, something named is missing or cannot be read: (videos, left out)."""
    if name == "ucf101":
        ucf101(root, NAMES, data=data)
        (root / "videos" / NAMES[0]).unlink()
        return 5, 1
    if name == "hmdb51":
        names = [
            f"[{film}]_&_(b);_c!_{action}_f_nm_np1_fr_goo_{i}.avi"
            for action in ("run", "wave")
            for film in "xy"
            for i in range(2)
        ]
        plant(root, [f"videos/{name.split('_')[-7]}/{name}" for name in names], data)
        texts(
            root,
            {
                f"testTrainMulti_7030_splits/{action}_test_split{split}.txt": [
                    f"{name} {1 + (split == 2)} " for name in names if f"_{action}_f_" in name
                ]
                for action in ("run", "wave")
                for split in (1, 2, 3)
            },
        )
        plant(root, [f"videos/run/{names[1]}"])  # an empty file
        return 7, 1
    if name == "kinetics400":
        plant(root, [f"train/{file}" for file in FILES[:3]] + ["train/mine.mp4"], data)
        texts(root, {"annotations/train.csv": table()})
        return 3, 2
    if name == "folder":
        plant(root, ["a/1.avi", "a/two words #2.mp4", "b/3.mkv", "b/4.webm"], data)
        return 4, 0
    oops(root, data=data)
    (root / f"oops_dataset/oops_video/train/{FAILS[2]}.mp4").write_bytes(
        b"<html>404 Not Found</html>"
    )
    return (4, 1) if name == "oops" else (2, 1)


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
    assert set(DATASETS) == {"ucf101", "hmdb51", "kinetics400", "oops", "oops-filtered", "folder"}


@pytest.mark.parametrize("name", DATASETS)
def test_loaded_and_sampled(tmp_path, name, clip):
    """What the lists say arrives in the clips: labels, order, pictures."""
    good, bad = build(name, tmp_path / "d", clip)
    listing, videos = (
        list_dataset(name, tmp_path / "d"),
        load_dataset(name, tmp_path / "d", progress=False),
    )
    assert (len(videos), len(videos.skipped)) == (good, bad) and videos.classes == listing.classes
    said = {entry.path: entry[1:] for entry in listing.listed}
    assert all(
        (video.label, video.group, video.transitions) == said[video.path] for video in videos.videos
    )
    assert [video.path for video in videos.videos] == [
        entry.path for entry in listing.listed if entry.path not in dict(videos.skipped)
    ]
    clips = Clips(videos, num_blocks=2, block_len=2, frame_stride=1, img_size=16)
    items = [clips[i] for i in range(len(clips))]
    assert [item["label"] for item in items] == [
        video.label for video in videos.videos
    ] and not any(item["broken"] for item in items)
    assert all(item["clip"].shape == (2, 3, 2, 16, 16) and item["clip"].any() for item in items)


@pytest.mark.parametrize("name", DATASETS)
def test_scanned(tmp_path, name, clip):
    """The table has a line for every video of the training part, readable or not, and for everything left out."""
    good, bad = build(name, tmp_path / "d", clip)
    said = memdpc(
        "scan",
        "--dataset",
        name,
        "--root",
        tmp_path / "d",
        "--out",
        tmp_path / "scan",
        "--num_workers",
        1,
    )
    with open(tmp_path / "scan/scan.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    videos = load_dataset(name, tmp_path / "d", progress=False)
    assert (len(videos), len(videos.skipped)) == (good, bad)
    for video in videos.videos:
        row = rows[video.path]
        assert (
            row["status"] == "short"
            and int(row["label"]) == video.label
            and row["group"] == video.group
            and "1 train" in row["splits"]
        )
        assert row["class"] == (videos.classes[video.label] if video.label >= 0 else "")
    assert all(
        rows[path]["reason"] == reason and rows[path]["status"] in ("broken", "missing", "unlisted")
        for path, reason in videos.skipped
    )
    assert re.search(
        rf"^1 train +{good + sum(rows[path]['status'] != 'unlisted' for path, _ in videos.skipped)} +{good} +{good} ",
        said,
        re.M,
    ), said


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_pretrained_for_a_step(tmp_path, name, clip):
    """One step, and the run says how many videos it had and how many were left out."""
    good, bad = build(name, tmp_path / "d", clip)
    memdpc(
        "pretrain", *SMALL, "--dataset", name, "--root", tmp_path / "d", "--out", tmp_path / "run"
    )
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["videos"], metrics["skipped"], metrics["steps"]) == (good, bad, 1)
