"""Small trees of files in the layouts of the datasets, for the tests that list, scan and copy."""

import csv
import io
import json
import os
import subprocess
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from memdpc.base.errors import MemdpcError
from memdpc.data.layouts import list_dataset
from memdpc.data.video import write_video
from memdpc.data.videos import load_dataset


def plant(root, names, data=b""):
    """Files of these names, all alike."""
    for folder in {os.path.dirname(name) for name in names}:
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    for name in names:
        with open(os.path.join(root, name), "wb") as file:
            file.write(data)
    return root


def texts(root, lists, newline="\n"):
    """Text files of these lines."""
    for name, lines in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(newline.join([*lines, ""]).encode())
    return root


def refused(*args, **more):
    """The one line of the error, which the command line turns into exit status 2."""
    with pytest.raises(MemdpcError) as error:
        list_dataset(*args, **more)
    text = str(error.value)
    assert "\n" not in text
    assert text.encode()  # can be written to any terminal
    return text


def paths(listing):
    return [entry.path for entry in listing.listed]


# ---- UCF101

NAMES = [
    f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("Archery", "Biking") for group in (1, 2, 3)
]


def ucf101(root, names, classes=("Archery", "Biking"), newline="\n", lists=None, data=b""):
    """A small tree in UCF101's layout: `names` as Class/v_Class_gXX_cYY.avi.

    All are in trainlist01 unless `lists` says otherwise.
    """
    plant(root, [f"videos/{name}" for name in names], data)
    numbers = {name: number for number, name in enumerate(classes, 1)}
    lines = {
        "classInd": [f"{number} {name}" for name, number in numbers.items()],
        "trainlist01": [f"{name} {numbers[name.split('/')[0]]}" for name in names],
    }
    lines |= lists or {}
    files = {f"splits_classification/{name}.txt": text for name, text in lines.items()}
    return texts(root, files, newline)


# ---- HMDB51

_ACTIONS = """
brush_hair cartwheel catch chew clap climb climb_stairs dive draw_sword dribble drink eat fall_floor
fencing flic_flac golf handstand hit hug jump kick kick_ball kiss laugh pick pour pullup punch push
pushup ride_bike ride_horse run shake_hands shoot_ball shoot_bow shoot_gun sit situp smile smoke
somersault stand swing_baseball sword sword_exercise talk throw turn walk wave
"""
ACTIONS = _ACTIONS.split()
FILMS = [
    "Turnk_r_(Pippi_Michel)",
    "RATRACE",
    "[Fencing]_1;2_&_more",
    "April_09_brush_hair_run",
    "Fight!_Club",
]


def hmdb51(root, actions=ACTIONS, splits="testTrainMulti_7030_splits", videos="videos", data=b""):
    """HMDB51 as it is: actions x 3 splits; 70 videos of each to train, 30 to test, some neither.

    Lines end in a space.
    """
    for number, action in enumerate(actions):
        count = 101 + number % 9
        names = [f"{FILMS[i % 5]}_{action}_f_cm_np1_fr_med_{i}.avi" for i in range(count)]
        plant(root, [os.path.join(videos, action, name) for name in names], data)
        for split in 1, 2, 3:
            order = np.random.default_rng([split, number]).permutation(count)
            marks = {}
            for place, i in enumerate(order):
                marks[names[i]] = "1" if place < 70 else "2" if place < 100 else "0"
            lines = [f"{name} {marks[name]} " for name in names]
            texts(root, {f"{splits}/{action}_test_split{split}.txt": lines})
    return root


# ---- Kinetics-400

HEAD = ["label", "youtube_id", "time_start", "time_end", "split"]
ROWS = [
    ("riding a bike", "-3B32lodo2M", 59, 69),
    ("yoga", "aaaaaaaaaaa", 0, 10),
    ("air drumming", "_bbbb-bbbbb", 123, 133),
    ("opening, closing", "ccccccccccc", 7, 17),
]
FILES = [f"{name}_{start:06d}_{end:06d}.mp4" for _, name, start, end in ROWS]


def table(rows=ROWS, head=HEAD, split="train"):
    """The lines of a table of Kinetics."""
    text = io.StringIO()
    csv.writer(text).writerows([head, *((*row, split, 0)[: len(head)] for row in rows)])
    return text.getvalue().splitlines()


# ---- Oops!

FAILS = [
    "34 Funny Kid Nominees - FailArmy Hall Of Fame (May 2017)0",
    "Best \"Fails\" of the Week #1! 'Ouch'12",
    "Größter Sturz – Été 20163",
    " begins with a space7",
    "日本の失敗 ❤4",
]
TIMES = [[2.1, 2.4, -1], [-1, -1, -1], [0, 0.5, 3], None, [1, 1.25, 1.5]]


def oops(root, top="oops_dataset/", form="NFC", written="NFC", data=b""):
    """Oops! as it unpacks: five training videos, and one for validation.

    Three of the five are filtered, one is without times. Names of files and names in lists are in
    the Unicode normal forms `form` and `written`.
    """
    spelled = {name: unicodedata.normalize(written, name) for name in (*FAILS, "val 1")}
    files = [f"train/{unicodedata.normalize(form, name)}.mp4" for name in FAILS]
    plant(root, [f"{top}oops_video/{name}" for name in (*files, "val/val 1.mp4")], data)
    times = {}
    for name, t in zip(FAILS, TIMES):
        if t:
            times[spelled[name]] = {
                "t": t,
                "len": 9.9,
                "rel_t": [value / 9.9 for value in t],
                "stdev": float("nan"),
                "n_notfound": t.count(-1),
            }
    times["val 1"] = {"t": [4, 5, 6]}
    lists = {
        "train": FAILS,
        "val": ["val 1"],
        "train_filtered": FAILS[::2],
        "val_filtered": ["val 1"],
    }
    for name, fails in lists.items():
        texts(root, {f"{top}annotations/{name}.txt": [spelled[fail] for fail in fails]})
    return texts(root, {f"{top}annotations/transition_times.json": [json.dumps(times)]})


# ---- all of them

LAYOUTS = ["ucf101", "hmdb51", "kinetics400", "oops", "oops-filtered", "csv", "folder"]


def build(name, root):
    """A tree in the layout of a dataset, with something for testing where there can be."""
    if name == "ucf101":
        ucf101(root, NAMES, lists={"testlist01": [NAMES[0]]})
    elif name == "hmdb51":
        splits = "test_train_splits/testTrainMulti_7030_splits"
        hmdb51(root, ["run", "wave"], splits, "hmdb51_org")
    elif name == "kinetics400":
        plant(root, [f"{part}/{file}" for part in ("train", "val") for file in FILES])
        texts(root, {"train.csv": table(), "annotations/val.csv": table()})
    elif name == "csv":
        plant(root, ["a/1.avi", "b/2.avi", "3.avi"])
        train = ["path,label,group", "a/1.avi,run,home", "b/2.avi,jump,park"]
        texts(root, {"train.csv": train, "test.csv": ["path,label", "3.avi,run"]})
    elif name == "folder":
        plant(root, ["a/1.avi", "b/2.avi"])
    else:
        oops(root)
    return root


# ---- with real videos in them


def grey_video(path, frames=8, side=16):
    """Frame t is grey of brightness 6t."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = (6 * np.arange(frames) % 256).astype(np.uint8)[:, None, None, None]
    pictures = np.broadcast_to(grey, (frames, side, side, 3))
    write_video(path, pictures, codec="mpeg4", options={"g": "4"})
    return path


def ucf101_with_videos(root, names=NAMES, lists=None):
    """UCF101's layout, with a real video for each name."""
    data = grey_video(root / "videos" / names[0]).read_bytes()
    return ucf101(root, names, lists=lists, data=data)


def many_videos(folder, count=70):
    """A plain folder of copies of one video."""
    data = grey_video(folder / "000.avi").read_bytes()
    for i in range(1, count):
        (folder / f"{i:03d}.avi").write_bytes(data)
    return folder


def load(*args, **more):
    return load_dataset(*args, progress=False, **more)


# ---- processes


def living_children(pid):
    """Living processes whose parent is `pid`, and that are not Python's own helpers."""
    words = ["ps", "-ww", "-o", "pid=,stat=,args=", "--ppid", str(pid)]
    done = subprocess.run(words, capture_output=True, text=True)
    found = []
    for line in done.stdout.splitlines():
        number, state, command = line.split(maxsplit=2)
        helper = "resource_tracker" in command or command.startswith("ps ")
        if "Z" not in state and not helper:
            found.append(int(number))
    return found


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds=120):
    """What `condition()` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value
