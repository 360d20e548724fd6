"""The index: each file is opened once, whatever was killed, and by one process at a time."""

import ast
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from trees import NAMES, grey_video, load, ucf101_with_videos

from memdpc.base.errors import DatasetError
from memdpc.data import index as index_module
from memdpc.data._entries import info_from
from memdpc.data.index import Index, describe, examine


@pytest.fixture
def tree(tmp_path):
    return ucf101_with_videos(tmp_path / "UCF101")


@pytest.fixture
def opened(monkeypatch):
    """Paths that `describe` was asked for."""
    paths = []

    def watched(path):
        paths.append(path)
        return describe(path)

    monkeypatch.setattr(index_module, "describe", watched)
    return paths


def test_files_are_opened_once(tree, opened):
    """Unchanged files never again, changed ones once, bad ones like others.

    A missing file is not noted; a tree that was moved is another.
    """
    first = load("ucf101", tree)
    assert len(opened) == 6
    assert load("ucf101", tree) == first
    assert len(opened) == 6
    grey_video(tree / "videos" / NAMES[2], frames=5)
    frames = [entry.info.frames for entry in load("ucf101", tree).videos]
    assert frames == [8, 8, 5, 8, 8, 8]
    assert len(opened) == 7
    (tree / "videos" / NAMES[2]).write_bytes(b"")
    for _ in range(2):
        assert len(load("ucf101", tree).skipped) == 1
        assert len(opened) == 8
    os.utime(tree / "videos" / NAMES[0])  # touched: it may have changed
    load("ucf101", tree)
    assert len(opened) == 9
    size = Index(tree).file.stat().st_size
    (tree / "videos" / NAMES[2]).unlink()
    for _ in range(3):
        assert dict(load("ucf101", tree).skipped) == {f"videos/{NAMES[2]}": "no such file"}
    assert Index(tree).file.stat().st_size == size
    tree.rename(tree.with_name("moved"))
    assert len(load("ucf101", tree.with_name("moved"))) == 5


def test_an_index_cut_anywhere_is_repaired(tree, opened):
    """After a kill in the middle of a line at most that line is lost, and later lines are whole.

    Rubbish in it is passed over.
    """
    first = load("ucf101", tree)
    index = Index(tree).file
    data = index.read_bytes()
    for cut in {0, 1, len(data) - 1, *np.random.default_rng(0).integers(0, len(data), 20)}:
        index.write_bytes(data[:cut])
        whole = sum(1 for line in data[:cut].split(b"\n") if line.endswith(b"}}"))
        opened.clear()
        assert load("ucf101", tree) == first
        assert len(opened) == 6 - whole
        opened.clear()
        assert load("ucf101", tree) == first
        assert not opened
    rubbish = b'\n[1]\n7\nnull\n"ab"\t"cd"\n\t\n"a"\t{}\n"a"\t[1]\n\xff\xfe\t\xff'
    index.write_bytes(rubbish + data)
    opened.clear()
    assert load("ucf101", tree) == first
    assert not opened


def test_an_entry_gives_its_info_back(tree):
    """Through JSON and back: the same `VideoInfo`, tuples and all."""
    path = tree / "videos" / NAMES[0]
    entry = describe(path)
    assert info_from(json.loads(json.dumps(entry["info"]))) == info_from(entry["info"])
    index = Index(tree)
    index.add("x.avi", {"stamp": [1, 2], "reason": "takes longer than 1 seconds", "limit": 1})
    assert Index(tree).get("x.avi")["limit"] == 1
    assert Index(tree).get("y.avi") is None


LOAD = """
import logging
from memdpc.data.videos import load_dataset
logging.basicConfig(level=logging.INFO)
print(len(load_dataset('ucf101', {root!r}, progress=False)))
"""


def start(code, **streams):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **streams
    )


def test_processes_share_an_index(tree):
    """Two at once come to the end, every line is whole, and each file was opened once."""
    code = LOAD.format(root=str(tree))
    running = [start(code, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [int(process.communicate(timeout=120)[0]) for process in running] == [6, 6]
    lines = [line for line in Index(tree).file.read_text().splitlines() if line]
    names = sorted(json.loads(line.split("\t")[0]) for line in lines)
    assert names == sorted(f"videos/{name}" for name in NAMES)
    assert all(json.loads(line.split("\t")[1])["info"] for line in lines)


HOLD = """
import time
from pathlib import Path
from memdpc.base.files import turn
with turn(Path({lock!r})):
    print('in', flush=True)
    time.sleep(600)
"""


def test_who_comes_second_waits_and_who_is_killed_lets_go(tree):
    """A process that holds the lock makes another wait, and say so; killed, it lets it go on."""
    file = Index(tree).file
    first = start(HOLD.format(lock=str(file.with_suffix(".lock"))))
    assert first.stdout.readline() == "in\n"
    second = start(LOAD.format(root=str(tree)), stderr=subprocess.PIPE)
    assert "waiting for what it finds" in second.stderr.readline()
    assert second.poll() is None
    assert not file.exists()
    first.kill()
    assert second.communicate(timeout=120)[0] == "6\n"
    assert first.wait() < 0


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
    assert len(found.skipped) == 4
    assert len(caplog.messages) == 1
    empty = f"3 is empty (videos/{NAMES[0]}, ...)"
    gone = f"1 no such file (videos/{NAMES[3]})"
    assert f"4 of 6 videos are left out: {empty}, {gone}" in caplog.text


# ---- faults of the environment

as_anyone = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")

AS_NOBODY = """
import os, sys
from memdpc.data.index import describe
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(describe(sys.argv[1]))
"""


def describe_elsewhere(path, code=AS_NOBODY):
    """What a process without rights of its own says of a file."""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


@as_anyone
def test_a_missing_right_is_not_remembered(tmp_path):
    """2026-11: files that could not be opened once stayed broken when they could be."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = grey_video(Path(folder) / "x.avi")
        if not all(parent.stat().st_mode & 0o001 for parent in path.parents):
            pytest.skip("others may not enter the folder of temporary files")
        path.chmod(0)
        assert describe_elsewhere(path) == {"reason": "cannot be read (Permission denied)"}
        path.chmod(0o644)
        assert describe_elsewhere(path)["info"]["frames"] == 8


FEW_FILES = """
import os, resource, sys
from memdpc.data.index import describe
path = sys.argv[1]
describe(path)  # imports all that it needs
opened = len(os.listdir('/proc/self/fd'))
resource.setrlimit(resource.RLIMIT_NOFILE, (opened - 1, opened - 1))
print(describe(path))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="reads /proc")
def test_too_many_open_files_are_not_the_files_fault(tmp_path):
    path = grey_video(tmp_path / "x.avi")
    reason = {"reason": "cannot be read (Too many open files)"}
    assert describe_elsewhere(path, FEW_FILES) == reason


def test_what_the_decoder_says_of_readable_bytes_is_remembered(tmp_path):
    path = tmp_path / "x.avi"
    path.write_bytes(b"no video")
    assert describe(path).keys() == {"stamp", "reason"}


def test_a_disk_that_is_not_mounted(tmp_path, opened):
    """Links that lead nowhere for a while: nothing is noted, and what was known stays known."""
    disk = tmp_path / "disk"
    root = tmp_path / "f"
    root.mkdir()
    for i in range(3):
        (root / f"{i}.avi").symlink_to(grey_video(disk / f"{i}.avi"))
    first = load("folder", root)
    known = Index(root).file.read_bytes()
    disk.rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="none of the 3 videos can be read: 3 no such file"):
        load("folder", root)
    assert Index(root).file.read_bytes() == known
    (tmp_path / "elsewhere").rename(disk)
    opened.clear()
    assert load("folder", root) == first
    assert not opened


def test_what_is_known_can_be_forgotten(tree, opened):
    """`again` opens every file, and what it finds is what counts from then on."""
    load("ucf101", tree)
    index = Index(tree)
    path = f"videos/{NAMES[0]}"
    entry = index.get(path)
    index.add(path, {"stamp": entry["stamp"], "reason": "is broken"})
    assert len(load("ucf101", tree)) == 5
    opened.clear()
    examine(tree, [f"videos/{name}" for name in NAMES], progress=False, again=True)
    assert len(opened) == 6
    assert len(load("ucf101", tree)) == 6


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, cache):
    """As a video, by its own name or through a link, and in place of the index."""
    root = tmp_path / "f"
    grey_video(root / "a.avi")
    os.mkfifo(root / "b.avi")
    (root / "c.avi").symlink_to(root / "b.avi")
    (root / "d.avi").symlink_to("/dev/zero")
    skipped = dict(load("folder", root).skipped)
    assert skipped == dict.fromkeys(["b.avi", "c.avi", "d.avi"], "is no regular file")
    file = Index(root).file
    file.unlink()
    os.mkfifo(file)
    assert Index(root).lines == {}


def test_examine_opens_each_path_once(tree, opened):
    """A path that is asked for twice is opened once."""
    examine(tree, [f"videos/{NAMES[0]}"] * 3, progress=False)
    assert len(opened) == 1
