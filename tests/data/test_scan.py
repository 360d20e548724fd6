"""The index that outlives kills, processes that open files and may die of them, the packed list of videos, and `memdpc scan`."""

import csv
import json
import logging
import os
import pickle
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
from hypothesis import given
from hypothesis import strategies as st
from test_datasets import build

from memdpc.base.config import ScanConfig
from memdpc.base.errors import DatasetError, MemdpcError
from memdpc.data import datasets
from memdpc.data.guard import described, epitaph
from memdpc.data.index import Index, examine
from memdpc.data.layouts import below, list_dataset
from memdpc.data.scan import COLUMNS, scan
from memdpc.data.video import VideoInfo, write_video
from memdpc.data.videos import Packed, Video, VideoList, hold_out, load_dataset

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An index of its own for each test."""
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def video(path, frames=8, side=16):
    """Frame t is grey of brightness 6t."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = (6 * np.arange(frames) % 256).astype(np.uint8)[:, None, None, None]
    write_video(
        path, np.broadcast_to(grey, (frames, side, side, 3)), codec="mpeg4", options={"g": "4"}
    )
    return path


def ucf101(root, names, lists=None):
    """A small tree in UCF101's layout: `names` as Class/v_Class_gXX_cYY.avi; all in trainlist01 unless `lists` says otherwise."""
    classes = sorted({name.split("/")[0] for name in names})
    data = video(root / "videos" / names[0]).read_bytes()
    for name in names:
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "videos" / name).write_bytes(data)
    (root / "splits_classification").mkdir()
    texts = {
        "classInd": [f"{i} {name}" for i, name in enumerate(classes, 1)],
        "trainlist01": [f"{name} {classes.index(name.split('/')[0]) + 1}" for name in names],
    } | (lists or {})
    for name, lines in texts.items():
        (root / "splits_classification" / f"{name}.txt").write_text("\n".join([*lines, ""]))
    return root


NAMES = [
    f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("Archery", "Biking") for group in (1, 2, 3)
]


@pytest.fixture
def tree(tmp_path):
    return ucf101(tmp_path / "UCF101", NAMES)


@pytest.fixture
def many(tmp_path):
    """A plain folder of 70 copies of one video."""
    data = video(tmp_path / "f" / "000.avi").read_bytes()
    for i in range(1, 70):
        (tmp_path / "f" / f"{i:03d}.avi").write_bytes(data)
    return tmp_path / "f"


def refused(*args, **more):
    """The one line of the error, which the command line turns into exit status 2."""
    with pytest.raises(MemdpcError) as error:
        load_dataset(*args, progress=False, **more)
    text = str(error.value)
    assert "\n" not in text and text.encode()  # can be written to any terminal
    return text


def load(*args, **more):
    return load_dataset(*args, progress=False, **more)


# ---- the index


@pytest.fixture
def opened(monkeypatch):
    """Paths that `describe` was asked for."""
    paths, describe = [], datasets.describe
    monkeypatch.setattr(datasets, "describe", lambda path: paths.append(path) or describe(path))
    return paths


def test_files_are_opened_once(tree, opened, cache):
    """Unchanged files never again, changed ones once, bad ones like others; a missing file is not noted; a tree that was moved is another."""
    first = load("ucf101", tree)
    assert len(opened) == 6
    assert load("ucf101", tree) == first and len(opened) == 6
    video(tree / "videos" / NAMES[2], frames=5)
    assert [entry.info.frames for entry in load("ucf101", tree).videos] == [
        8,
        8,
        5,
        8,
        8,
        8,
    ] and len(opened) == 7
    (tree / "videos" / NAMES[2]).write_bytes(b"")
    assert len(load("ucf101", tree).skipped) == 1 and len(opened) == 8
    assert len(load("ucf101", tree).skipped) == 1 and len(opened) == 8
    size = Index(tree).file.stat().st_size
    (tree / "videos" / NAMES[2]).unlink()
    for _ in range(3):
        assert dict(load("ucf101", tree).skipped) == {f"videos/{NAMES[2]}": "no such file"}
    assert Index(tree).file.stat().st_size == size
    tree.rename(tree.with_name("moved"))
    assert len(load("ucf101", tree.with_name("moved"))) == 5


def test_an_index_cut_anywhere_is_mended(tree, opened):
    """A kill in the middle of a line: at most that line is lost, and lines written later are whole. Rubbish in it is passed over."""
    first = load("ucf101", tree)
    index = Index(tree).file
    data = index.read_bytes()
    for cut in {0, 1, len(data) - 1, *np.random.default_rng(0).integers(0, len(data), 20)}:
        index.write_bytes(data[:cut])
        whole = sum(1 for line in data[:cut].split(b"\n") if line.endswith(b"}}"))
        opened.clear()
        assert load("ucf101", tree) == first and len(opened) == 6 - whole
        opened.clear()
        assert load("ucf101", tree) == first and not opened
    index.write_bytes(b'\n[1]\n7\nnull\n"ab"\t"cd"\n\t\n"a"\t{}\n"a"\t[1]\n\xff\xfe\t\xff' + data)
    opened.clear()
    assert load("ucf101", tree) == first and not opened


def test_processes_share_an_index(tree):
    """Two at once: both come to the end, every line is whole, and each file was opened once: the second waited for the first."""
    code = f"from memdpc.data.datasets import load_dataset; print(len(load_dataset('ucf101', {str(tree)!r}, progress=False)))"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [int(process.communicate(timeout=60)[0]) for process in running] == [6, 6]
    lines = [line for line in Index(tree).file.read_text().splitlines() if line]
    assert sorted(json.loads(line.split("\t")[0]) for line in lines) == sorted(
        f"videos/{name}" for name in NAMES
    )
    assert all(json.loads(line.split("\t")[1])["info"] for line in lines)


def test_who_comes_second_waits_and_who_is_killed_lets_go(tree, tmp_path):
    """A process that holds the lock makes another wait, and say so; killed, it lets the other go on."""
    file = Index(tree).file
    hold = f"import time; from pathlib import Path; from memdpc.data.datasets import turn\nwith turn(Path({str(file)!r})): print('in', flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "in\n"
    code = (
        "import logging; logging.basicConfig(level=logging.INFO); from memdpc.data.datasets import load_dataset; "
        f"print(len(load_dataset('ucf101', {str(tree)!r}, progress=False)))"
    )
    second = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert (
        "waiting for what it finds" in second.stderr.readline()
        and second.poll() is None
        and not file.exists()
    )
    first.kill()
    assert second.communicate(timeout=60)[0] == "6\n" and first.wait() < 0


def test_a_cache_that_cannot_be_written_costs_only_time(tree, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "file/cache"))
    for _ in range(2):
        caplog.clear()
        assert len(load("ucf101", tree)) == 6
        assert caplog.text.count("the index is not kept") == 1


def test_what_is_left_out_is_logged_by_reason(tree, caplog):
    """Counts, reasons, and a name for each, in one line."""
    for name in NAMES[:3]:
        (tree / "videos" / name).write_bytes(b"")
    (tree / "videos" / NAMES[3]).unlink()
    with caplog.at_level(logging.WARNING):
        found = load("ucf101", tree)
    assert len(found.skipped) == 4 and len(caplog.messages) == 1
    assert (
        f"4 of 6 videos are left out: 3 is empty (videos/{NAMES[0]}, ...), 1 no such file (videos/{NAMES[3]})"
        in caplog.text
    )


# ---- processes that may die

FAULTY = """
import os, signal, sys, time, unittest.mock
from memdpc.data import datasets
from memdpc.data.index import describe
def work(path):
    name = os.path.basename(path)
    if name == 'segv.avi': os.kill(os.getpid(), signal.SIGSEGV)
    if name == 'abort.avi': os.abort()
    if name == 'exit.avi': os._exit(3)
    if name == 'raise.avi': raise RuntimeError('not thought of')
    if name == 'hang.avi': time.sleep(1000)
    if name == 'spin.avi':
        while True: pass
    if name == 'kill.avi': os.kill(os.getpid(), signal.SIGKILL)
    if name == 'term.avi': os.kill(os.getpid(), signal.SIGTERM)
    if name == 'chatter.avi': os.system('echo decoder chatter; echo decoder chatter >&2'); print('more'); os.write(2, b'more')
    if name == 'marked.avi': open(path + '.pid', 'w').write(str(os.getpid())); time.sleep(1000)
    if name != 'memory.avi': return describe(path)
    with unittest.mock.patch.object(datasets, 'probe', lambda path: bytearray(5 << 30)): return describe(path)
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Worker processes to which files of certain names do what a hostile file does to a decoder."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/faulty_work.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(
        datasets, "described", lambda *args: described(*args, "faulty_work", "work")
    )


def test_faults_are_reasons(many, faulty, capfd, opened, monkeypatch):
    """Crashes, exits, hangs: each is the reason of its file, all others are read, and nothing comes to the terminal."""
    for number, name in enumerate(
        ("segv", "abort", "exit", "raise", "hang", "spin", "memory", "chatter")
    ):
        os.rename(many / f"{7 * number:03d}.avi", many / f"{name}.avi")
    index = examine(many, sorted(path.name for path in many.glob("*.avi")), 2, False, 8.0)
    reasons = {path.stem: index.get(path.name).get("reason") for path in many.glob("*.avi")}
    assert {name: reason for name, reason in reasons.items() if reason} == {
        "segv": "crashes the decoder (SIGSEGV)",
        "abort": "crashes the decoder (SIGABRT)",
        "exit": "ends the process that opens it (exit status 3)",
        "raise": "ends the process that opens it (exit status 1)",
        "hang": "takes longer than 8 seconds",
        "spin": "takes longer than 8 seconds",
        "memory": "asks for more memory than there is",
    }
    assert len(reasons) == 70 and capfd.readouterr() == ("", "") and not opened
    monkeypatch.setattr(
        datasets, "described", lambda *args: pytest.fail("what is known is not tried again,")
    )
    assert (
        examine(many, ["hang.avi", "spin.avi", "segv.avi"], 2, False, 8.0).get("hang.avi")["limit"]
        == 8.0
    )
    assert not index.fresh("hang.avi", 9.0) and index.fresh(
        "segv.avi", 2.0
    )  # unless the limit is larger


@pytest.mark.parametrize("name,number", [("kill", "SIGKILL"), ("term", "SIGTERM")])
def test_a_killed_worker_is_one_line_and_what_was_found_is_kept(many, faulty, name, number):
    """Whoever kills a worker says nothing about the file: the scan ends, and begun again it goes on."""
    os.rename(many / "050.avi", many / f"{name}.avi")
    text = refused("folder", many, num_workers=1)
    assert f"was killed ({number})" in text and f"{name}.avi" in text and "start again" in text
    index = Index(many)
    assert 30 < len(index.lines) < 70 and not index.get(f"{name}.avi")
    os.rename(many / f"{name}.avi", many / "050.avi")
    assert len(load("folder", many, num_workers=1)) == 70


def test_workers_find_the_same(many, monkeypatch, tmp_path):
    data = (many / "000.avi").read_bytes()
    for i in range(0, 70, 9):
        (many / f"{i:03d}.avi").write_bytes(data[: 60 * i])
    alone = load("folder", many)
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "other"))
    assert load("folder", many, num_workers=3) == alone and len(alone) + len(alone.skipped) == 70


@linux
def test_workers_inherit_nothing_and_import_little(many):
    """A program of its own for each: whatever the parent holds or runs, its __main__ does not run again, and torch is not imported."""
    code = f"""
import sys
print('main runs')
ballast = bytearray(300 << 20)
from memdpc.data import datasets
from memdpc.data.guard import Worker
from memdpc.data.videos import load_dataset
class Watched(Worker):
    def answers(self):
        if self.paths: print(max(int(line.split()[1]) for line in open(f'/proc/{{self.process.pid}}/status') if line.startswith('VmHWM')))
        return super().answers()
datasets.Worker = Watched
print('videos', len(load_dataset('folder', {str(many)!r}, num_workers=2)), 'torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines.count("main runs") == 1 and lines[-1] == "videos 70 False", done.stderr
    assert (
        max(map(int, lines[1:-1])) < 120_000
    )  # kB: numpy and FFmpeg, neither torch nor the ballast


def test_workers_that_cannot_start_are_one_line(many, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "cannot start" in refused("folder", many, num_workers=2)


def test_epitaphs(tmp_path):
    """What a worker's exit status says of the file; a file that vanished meanwhile has no stamp."""
    path = str(tmp_path / "x.avi")
    assert epitaph(path, -signal.SIGSEGV, 5) == {"reason": "No such file or directory"}
    (tmp_path / "x.avi").write_bytes(bytes(10**6))
    assert (
        epitaph(path, -signal.SIGALRM, 5)["reason"] == "takes longer than 15 seconds"
    )  # ten seconds for each megabyte
    with pytest.raises(DatasetError, match="SIGHUP"):
        epitaph(path, -signal.SIGHUP, 5)


def children(pid):
    """Living processes whose parent is `pid`."""
    done = subprocess.run(
        ["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in done.stdout.splitlines() if "Z" not in line]


def alive(pid):
    return (
        Path(f"/proc/{pid}/stat").exists()
        and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    )


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_scan_leaves_no_process_and_goes_on(tmp_path, many, number):
    """Ctrl-C, kill -9 and SIGTERM in the midst of 3,000 files: no orphan, no traceback, and the next scan opens only the rest."""
    data = (many / "000.avi").read_bytes()
    for i in range(70, 3000):
        (many / f"{i:04d}.avi").write_bytes(data)
    words = [
        sys.executable,
        "-m",
        "memdpc",
        "scan",
        "--dataset",
        "folder",
        "--root",
        str(many),
        "--out",
        str(tmp_path / "out"),
    ]
    running = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    index = Index(many).file
    wait_for(lambda: index.exists() and index.stat().st_size > 30_000)
    workers = children(running.pid)
    assert len(workers) == 2
    os.kill(running.pid, number)
    out, err = running.communicate(timeout=20)
    assert (
        running.returncode == (130 if number == signal.SIGINT else -number)
        and "Traceback" not in err
        and not out
    )
    wait_for(lambda: not any(map(alive, workers)), 10)
    assert not (tmp_path / "out/scan.csv").exists()
    known = len(Index(many).lines)
    assert 100 < known < 2900
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "3000" in done.stdout
    lines = [
        line.split(b"\t")[0] for line in index.read_bytes().split(b"\n") if line.endswith(b"}}")
    ]
    assert 3000 <= len(lines) <= 3000 + 2 and len(set(lines)) == 3000


@linux
@pytest.mark.slow
def test_an_orphan_that_hangs_ends_by_its_own_alarm(tmp_path, many, faulty):
    """The parent is gone by kill -9 while a decoder hangs: the worker ends when its time for the file is over."""
    os.rename(many / "000.avi", many / "marked.avi")
    code = (
        "import sys; sys.path.insert(0, %r)\nfrom memdpc.data.datasets import described\n"
        "list(described([%r], 1, 2.0, 'faulty_work', 'work'))"
        % (str(tmp_path / "code"), str(many / "marked.avi"))
    )
    running = subprocess.Popen([sys.executable, "-c", code])
    pid = int(
        wait_for(
            lambda: (many / "marked.avi.pid").exists() and (many / "marked.avi.pid").read_text()
        )
    )
    running.kill()
    running.wait()
    assert alive(pid)
    wait_for(lambda: not alive(pid), 10)


# ---- the packed list


def some(count):
    """Videos of every kind of field."""
    for i in range(count):
        info = VideoInfo(
            100 + i,
            320,
            240,
            30000 / 1001,
            "h264",
            ((12, 512), (24, 1024)),
            i % 3,
            ((0, 0.0), (9, 0.1)) if i % 2 else (),
        )
        yield Video(
            os.fsdecode(b"caf\xe9/%d [x].avi" % i),
            i % 7 - 1,
            f"g{i % 5}",
            info,
            (2.5, -1.0) if i % 2 else (),
        )


def test_packed_is_a_sequence_of_the_same_videos():
    """Items, slices, iteration, equality, index, pickling."""
    videos = tuple(some(50))
    packed = Packed(videos)
    assert (
        len(packed) == 50
        and tuple(packed) == videos
        and packed[7] == videos[7]
        and packed[-1] == videos[-1]
        and packed[np.int64(3)] == videos[3]
    )
    assert type(packed[7].info.seek_points[0]) is tuple and hash(packed[7]) == hash(videos[7])
    assert (
        tuple(packed[5:20:3]) == videos[5:20:3]
        and tuple(packed[::-1]) == videos[::-1]
        and packed[:50] == packed
        and packed[:49] != packed
    )
    assert (
        packed.index(videos[9]) == 9
        and videos[9] in packed
        and hash(packed) == hash(Packed(videos))
    )
    assert (
        pickle.loads(pickle.dumps(packed)) == packed
        and len(pickle.dumps(packed)) < 60 * len(packed.text) / 50 * 1.2
    )
    for index in 50, -51:
        with pytest.raises(IndexError):
            packed[index]
    assert not len(Packed()) and list(Packed()) == []
    assert tuple(Packed([replace(videos[0], info=None)])) == (replace(videos[0], info=None),)


def test_only():
    videos = VideoList("x", Path("."), (), Packed(some(50)), (("y", "is empty"),))
    odd = videos.only(lambda video: video.info.frames % 2)
    assert (
        [video.info.frames for video in odd.videos] == list(range(101, 150, 2))
        and odd.skipped == videos.skipped
        and len(videos) == 50
    )


MEMORY = """
import os, sys
from memdpc.data.videos import Packed, Video
from memdpc.data.datasets import VideoInfo
def some(count):
    for i in range(count): yield Video(f'videos/Class{i % 101}/v_{i:06d}.avi', i % 101, f'g{i % 25}', VideoInfo(180 + i % 9, 320, 240, 25.0, 'mpeg4', ((13, 13), (26, 26))))
def private(): return sum(int(line.split()[1]) for line in open('/proc/self/smaps_rollup') if line.startswith('Private')) / 1000
before = private()
videos = {'tuple': tuple, 'Packed': Packed}[sys.argv[1]](some(200_000))
holds = private() - before
reader, writer = os.pipe()
if not os.fork():
    before = private()
    for video in videos: video.path
    os.write(writer, str(private() - before).encode())
    os._exit(0)
os.wait()
print(holds, float(os.read(reader, 99)))
"""


@linux
@pytest.mark.slow
def test_a_packed_list_is_not_copied_into_every_process():
    """Megabytes that 200,000 videos take, and the private memory that a forked process gains by walking over them."""
    found = {
        kind: [
            float(word)
            for word in subprocess.run(
                [sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=True
            ).stdout.split()
        ]
        for kind in ("tuple", "Packed")
    }
    print(found)
    assert (
        found["tuple"][0] > 3 * found["Packed"][0]
        and found["tuple"][1] > 50
        and found["Packed"][1] < 5
    )


# ---- held out by group


@given(
    groups=st.lists(st.sampled_from(["", "g01", "g02", "g03", "g04"]), min_size=2, max_size=40),
    fraction=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_hold_out_parts_no_group(groups, fraction, seed):
    """Of any list: nothing lost, nothing twice, in order, no group in both, and the same each time."""
    videos = VideoList(
        "x",
        Path("."),
        (),
        Packed(Video(f"{i}.avi", 0, group, None) for i, group in enumerate(groups)),
    )
    try:
        kept, held = hold_out(videos, fraction, seed)
    except DatasetError:
        assert (
            round(fraction * len({g or i for i, g in enumerate(groups)}))
            >= len({g or i for i, g in enumerate(groups)}) - 1
            or len(set(groups)) == 1
        )
        return
    assert sorted((*kept.videos, *held.videos), key=videos.videos.index) == list(
        videos.videos
    ) and len(kept)
    assert not ({v.group for v in kept.videos} & {v.group for v in held.videos}) - {""}
    assert bool(len(held)) == (fraction > 0) and (kept, held) == hold_out(videos, fraction, seed)
    assert list(kept.videos) == [v for v in videos.videos if v in set(kept.videos)]


# ---- memdpc scan


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
    """Splits and parts, each file once; short, broken, missing, listed twice, and files that no list names."""
    lists = {
        "trainlist01": [
            f"{name} {1 + (name[0] == 'B')}"
            for name in (*NAMES[:4], NAMES[0], "Archery/v_Archery_g09_c01.avi")
        ],
        "testlist01": NAMES[4:5],
        "trainlist02": [f"{name} 1" for name in NAMES[:2]],
    }
    root = ucf101(tmp_path / "U", NAMES, lists)
    video(root / "videos" / NAMES[0], 30)
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
    assert (
        list(report.refused) == ["2 test", "3 train", "3 test"]
        and report.table == tmp_path / "out/deep/scan.csv"
    )
    rows = {row["path"]: row for row in rows_in(report.table)}
    assert len(rows) == 7 and Counter(row["status"] for row in rows.values()) == report.counts[""]
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
        "damage": "0",
        "bytes": str((root / "videos" / NAMES[0]).stat().st_size),
        "label": "0",
        "class": "Archery",
        "group": "g01",
        "splits": "1 train; 2 train",
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
    stride = scan(
        ScanConfig("ucf101", str(root), num_blocks=5, block_len=2, time_stride=0.1)
    )  # .9 s: none of 8 frames at 25 fps
    assert (
        stride.counts[""]["short"] == 3
        and "a clip spans 0.9 seconds" in str(stride)
        and stride.table.name == "scan.csv"
    )


@pytest.mark.parametrize(
    "name", ["ucf101", "hmdb51", "kinetics400", "oops", "oops-filtered", "folder"]
)
def test_scan_of_every_layout(tmp_path, name):
    """The table says of each file what the dataset's own lists say: parts, labels, classes, groups; and it has every video file there is."""
    root = build(name, tmp_path / "it")
    data, files = video(tmp_path / "one.avi").read_bytes(), below(root)
    for path in files:
        (root / path).write_bytes(data)
    report = scan(ScanConfig(name, str(root)))
    rows = {row["path"]: row for row in rows_in(report.table)}
    named = set()
    for split in range(1, datasets.SPLITS[name] + 1):
        for subset in "train", "test":
            part = f"{split} {subset}"
            try:
                classes, listed, missing = list_dataset(name, root, split, subset)
            except DatasetError:
                assert part not in report.counts
                continue
            named |= {entry.path for entry in listed}
            counts, lost = (
                report.counts[part],
                [path for path, _ in missing if not (root / path).exists()],
            )
            assert counts == Counter(
                {"short": len(listed)} | ({"missing": len(lost)} if lost else {})
            ) and len(listed)
            for path, label, group, _ in listed:
                row = rows[path]
                assert (
                    part in row["splits"].split("; ")
                    and row["status"] == "short"
                    and (row["label"], row["group"]) == (str(label), group)
                )
                assert row["class"] == (classes[label] if label >= 0 else "")
            assert all(
                rows[path]["status"] == "missing" and part in rows[path]["splits"] for path in lost
            )
    assert {path for path, row in rows.items() if row["status"] == "unlisted"} >= set(
        files
    ) - named and set(files) <= set(rows)


def test_scan_says_when_nothing_can_be_read(tmp_path):
    """That is a result, not a mistake."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f/a.mp4").write_bytes(b"")
    report = scan(ScanConfig("folder", str(tmp_path / "f")))
    assert (
        report.counts[""] == {"broken": 1}
        and "is empty" in str(report)
        and "frames" not in str(report)
    )


def test_scan_from_the_shell(tmp_path, tree):
    """The report on standard output and nothing else; mistakes are one line and status 2; no torch."""
    done = memdpc("scan", "--root", tree, "--out", tmp_path / "o")
    assert (
        (done.returncode, done.stderr) == (0, "")
        and "1 train            6" in done.stdout
        and (tmp_path / "o/scan.csv").exists()
    )
    (tmp_path / "empty").mkdir()
    for words, wanted in (
        (["--root", tmp_path / "nowhere"], "no such folder"),
        (["--root", tree, "--dataset", "ucf102"], "choose one of"),
        (["--root", tmp_path / "empty", "--dataset", "folder"], "no video files"),
        ([], "root"),
        (["--root", tmp_path / "empty"], "no folder"),
    ):
        done = memdpc("scan", *words, "--out", tmp_path / "not")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (
            2,
            "",
            1,
        ) and wanted in done.stderr, done.stderr
    assert not (tmp_path / "not").exists()
    code = f"import sys; from memdpc.cli import main; main(['scan', '--root', {str(tree)!r}]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.slow
def test_ten_thousand_files(tmp_path):
    """From the shell. The second time no file is opened: many times as fast, on any machine (an idle one of two cores: 60 s, then 3 s)."""
    root, rng = tmp_path / "many", np.random.default_rng(0)
    (tmp_path / "one").mkdir()
    write_video(tmp_path / "one/a.mp4", rng.integers(0, 255, (5, 32, 32, 3), dtype=np.uint8))
    data = (tmp_path / "one/a.mp4").read_bytes()
    for i in range(10_000):
        path = root / f"class{i % 50:02d}/{i:05d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    words = "scan", "--dataset", "folder", "--root", root, "--out", tmp_path / "out"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = memdpc(*words)
        seconds.append(time.perf_counter() - start)
        assert (
            done.returncode == 0
            and "10000" in done.stdout
            and len(rows_in(tmp_path / "out/scan.csv")) == 10_000
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print("seconds", seconds, "largest process, kB", peak)
    assert min(seconds[1:]) < seconds[0] / 3


def test_a_table_that_cannot_be_written_is_one_line(tree, tmp_path):
    """2026-11: a traceback, since the table was still held in memory when writing failed. The system refuses to let the file grow, as on a full disk."""
    words = [
        sys.executable,
        "-m",
        "memdpc",
        "scan",
        "--root",
        str(tree),
        "--out",
        str(tmp_path / "out"),
    ]
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, preexec_fn=limited)
    assert (
        done.returncode == 2
        and "Traceback" not in done.stderr
        and done.stderr.splitlines()[-1].startswith("memdpc: ")
    )
    assert not (tmp_path / "out/scan.csv").exists()
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*words[:-1], str(tmp_path / "file")], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (2, f"memdpc: {tmp_path / 'file'}: File exists\n")
