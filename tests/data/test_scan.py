"""`memdpc scan`: what is in the files of a dataset, as a report and as a table."""

import csv
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trees import (
    LAYOUTS,
    NAMES,
    build,
    grey_video,
    living_children,
    many_videos,
    ucf101_with_videos,
)

from memdpc.base.config import ScanConfig
from memdpc.base.errors import DatasetError
from memdpc.data import index as index_module
from memdpc.data.guard import run_guarded
from memdpc.data.index import Index, examine
from memdpc.data.layouts import list_dataset, number_of_splits, video_paths
from memdpc.data.scan import COLUMNS, scan
from memdpc.data.video import write_video

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path):
    return ucf101_with_videos(tmp_path / "UCF101")


def memdpc(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "memdpc", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        **more,
    )


def rows_in(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    return rows


def test_scan_of_a_dataset(tmp_path):
    """Splits and parts, each file once.

    Short, broken, missing, listed twice, and files that no list names.
    """
    lists = {
        "trainlist01": [
            f"{name} {1 + (name[0] == 'B')}"
            for name in (*NAMES[:4], NAMES[0], "Archery/v_Archery_g09_c01.avi")
        ],
        "testlist01": NAMES[4:5],
        "trainlist02": [f"{name} 1" for name in NAMES[:2]],
    }
    root = ucf101_with_videos(tmp_path / "U", NAMES, lists)
    grey_video(root / "videos" / NAMES[0], 30)
    (root / "videos" / NAMES[1]).write_bytes(b"no video")
    report = scan(
        ScanConfig(
            "ucf101",
            str(root),
            out=str(tmp_path / "out/deep"),
            num_blocks=5,
            block_len=2,
            frame_stride=3,
        )
    )  # spans 28
    assert report.counts == {
        "1 train": {"ok": 1, "broken": 1, "short": 2, "missing": 1},
        "1 test": {"short": 1},
        "2 train": {"ok": 1, "broken": 1},
        "": {"ok": 1, "broken": 1, "short": 3, "missing": 1, "unlisted": 1},
    }
    assert list(report.refused) == ["2 test", "3 train", "3 test"]
    assert report.table == tmp_path / "out/deep/scan.csv"
    rows = {row["path"]: row for row in rows_in(report.table)}
    assert len(rows) == 7
    assert Counter(row["status"] for row in rows.values()) == report.counts[""]
    first = rows[f"videos/{NAMES[0]}"]
    assert {name: first[name] for name in COLUMNS[1:]} == {
        "status": "ok",
        "reason": "is listed twice",
        "frames": "30",
        "width": "16",
        "height": "16",
        "fps": "25.0",
        "seconds": "1.2",
        "codec": "mpeg4",
        "stream": "0",
        "damage": "0",
        "bytes": str((root / "videos" / NAMES[0]).stat().st_size),
        "label": "0",
        "class": "Archery",
        "group": "g01",
        "splits": "1 train; 2 train",
        "listed_as": "",
    }
    assert (
        rows[f"videos/{NAMES[5]}"]["status"] == "unlisted"
        and rows["videos/Archery/v_Archery_g09_c01.avi"]["reason"] == "no such file"
    )
    text = str(report)
    for wanted in (
        "1 train            5         3         2         1         1",
        "testlist02.txt: no such file",
        "1  no such file: videos/Archery/v_Archery_g09",
        "1  is in no list",
        "8 to 30",
        "a clip spans 28 frames",
        "mpeg4: 4",
        "16x16: 4",
        str(report.table),
    ):
        assert wanted in text, text
    # .9 seconds: more than 8 frames at 25 fps
    stride = scan(ScanConfig("ucf101", str(root), num_blocks=5, block_len=2, time_stride=0.1))
    assert stride.counts[""]["short"] == 3
    assert "a clip spans 0.9 seconds" in str(stride)
    assert stride.table.name == "scan.csv"


@pytest.mark.parametrize("name", LAYOUTS)
def test_scan_of_every_layout(tmp_path, name):
    """The table says of each file what the dataset's own lists say.

    Parts, labels, classes, groups; and it has every video file there is.
    """
    root = build(name, tmp_path / "it")
    data = grey_video(tmp_path / "one.avi").read_bytes()
    files = video_paths(root)
    for path in files:
        (root / path).write_bytes(data)
    report = scan(ScanConfig(name, str(root)))
    rows = {row["path"]: row for row in rows_in(report.table)}
    named = set()
    for split in range(1, number_of_splits(name) + 1):
        for subset in "train", "test":
            part = f"{split} {subset}"
            try:
                listing = list_dataset(name, root, split, subset)
            except DatasetError as error:
                assert part not in report.counts
                assert str(report.refused[part]) == str(error)
                continue
            named |= {entry.path for entry in listing.listed}
            check_part(report, rows, root, part, listing)
    unlisted = {path for path, row in rows.items() if row["status"] == "unlisted"}
    assert unlisted >= set(files) - named
    assert set(files) <= set(rows)


def check_part(report, rows, root, part, listing):
    """What the table says of one part's videos is what its listing says."""
    lost = [path for path, _ in listing.missing if not (root / path).exists()]
    wanted = {"short": len(listing.listed)} | ({"missing": len(lost)} if lost else {})
    assert report.counts[part] == wanted
    for path, label, group, _ in listing.listed:
        row = rows[path]
        assert part in row["splits"].split("; ")
        assert row["status"] == "short"
        assert (row["label"], row["group"]) == (str(label), group)
        assert row["class"] == (listing.classes[label] if label >= 0 else "")
    for path in lost:
        assert rows[path]["status"] == "missing"
        assert part in rows[path]["splits"]


def test_scan_says_when_nothing_can_be_read(tmp_path):
    """That is a result, not a mistake."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f/a.mp4").write_bytes(b"")
    report = scan(ScanConfig("folder", str(tmp_path / "f")))
    assert report.counts[""] == {"broken": 1}
    assert "is empty" in str(report)
    assert "frames" not in str(report)


def test_a_second_scan_opens_nothing(tree, tmp_path):
    """No line more in the index, the same table; a file that changed is opened again, alone."""
    job = ScanConfig("ucf101", str(tree), out=str(tmp_path / "out"), num_workers=0)
    table = scan(job).table.read_bytes()
    index = Index(tree).file
    lines = index.read_bytes().count(b"\n")
    assert scan(job).table.read_bytes() == table
    assert index.read_bytes().count(b"\n") == lines
    grey_video(tree / "videos" / NAMES[1], 200)
    assert scan(job).counts[""]["ok"] == 1
    assert index.read_bytes().count(b"\n") == lines + 1


def test_again_opens_everything(tree, tmp_path):
    """What was remembered wrongly is forgotten."""
    job = ScanConfig("ucf101", str(tree), out=str(tmp_path / "out"), num_workers=0)
    table = scan(job).table.read_bytes()
    index = Index(tree)
    path = f"videos/{NAMES[0]}"
    index.add(path, {"stamp": index.get(path)["stamp"], "reason": "is broken"})
    assert scan(job).counts[""]["broken"] == 1
    assert "broken" not in scan(replace(job, again=True)).counts[""]
    assert scan(job).table.read_bytes() == table


def test_lengths_that_files_lie_about(tree):
    """2026-11: a sum of days that no calendar takes would have ended the report."""
    index = examine(tree, [f"videos/{NAMES[0]}"], progress=False)
    entry = index.get(f"videos/{NAMES[0]}")
    info = vars(replace(entry["info"], fps=1e-20))
    index.add(f"videos/{NAMES[0]}", {"stamp": entry["stamp"], "info": info})
    assert "(hours, minutes, seconds)" in str(scan(ScanConfig("ucf101", str(tree), num_workers=0)))


def test_a_scan_whose_worker_is_killed_goes_on(tmp_path, monkeypatch):
    """One line names the file; begun again the scan gives the table of an undisturbed one."""
    root = many_videos(tmp_path / "f", 300)
    job = ScanConfig("folder", str(root), out=str(tmp_path / "out"), num_workers=1)

    def disturbed(*args):
        for number, answer in enumerate(run_guarded(*args)):
            yield answer
            if number == 9:
                for pid in living_children(os.getpid()):
                    os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(index_module, "run_guarded", disturbed)
    try:
        scan(job)
    except DatasetError as error:
        assert "was killed (SIGKILL)" in str(error)
        assert 9 < len(Index(root).lines) < 300
    monkeypatch.undo()
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    table = scan(job).table.read_bytes()
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "another"))
    assert scan(job).table.read_bytes() == table


def test_scan_from_the_shell(tmp_path, tree):
    """The report on standard output and nothing else; mistakes are one line and status 2."""
    done = memdpc("scan", "--root", tree, "--out", tmp_path / "o")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 train            6" in done.stdout
    assert (tmp_path / "o/scan.csv").exists()
    (tmp_path / "empty").mkdir()
    for words, wanted in (
        (["--root", tmp_path / "nowhere"], "no such folder"),
        (["--root", tree, "--dataset", "ucf102"], "choose one of"),
        (["--root", tmp_path / "empty", "--dataset", "folder"], "no video files"),
        ([], "root"),
        (["--root", tmp_path / "empty"], "no folder"),
    ):
        done = memdpc("scan", *words, "--out", tmp_path / "not")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert wanted in done.stderr
    assert not (tmp_path / "not").exists()


def test_scan_imports_no_torch(tree):
    code = "import sys; from memdpc.cli import main; main(['scan', '--root', sys.argv[1]])"
    code += "; assert 'torch' not in sys.modules"
    words = [sys.executable, "-c", code, str(tree)]
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)


@pytest.mark.slow
def test_ten_thousand_files(tmp_path):
    """The second time no file is opened: many times as fast, on any machine.

    (An idle one of two cores: 60 s, then 3 s.)
    """
    pictures = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "one").mkdir()
    write_video(tmp_path / "one/a.mp4", pictures)
    data = (tmp_path / "one/a.mp4").read_bytes()
    for i in range(10_000):
        path = tmp_path / f"many/class{i % 50:02d}/{i:05d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    words = ["scan", "--dataset", "folder", "--root", tmp_path / "many", "--out", tmp_path / "out"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = memdpc(*words)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert "10000" in done.stdout
        assert len(rows_in(tmp_path / "out/scan.csv")) == 10_000
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print("seconds", seconds, "largest process, kB", peak)
    assert min(seconds[1:]) < seconds[0] / 3


def _small_files_only():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_table_that_cannot_be_written_is_one_line(tree, tmp_path):
    """2026-11: a traceback, since the table was still held in memory when writing failed.

    The system refuses to let the file grow, as on a full disk.
    """
    words = [sys.executable, "-m", "memdpc", "scan", "--root", str(tree), "--out"]
    done = subprocess.run(
        [*words, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=_small_files_only,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("memdpc: ")
    assert not (tmp_path / "out/scan.csv").exists()
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*words, str(tmp_path / "file")], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (2, f"memdpc: {tmp_path / 'file'}: Not a directory\n")
