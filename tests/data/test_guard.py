"""Worker processes that files may crash, hang or fill, and that somebody may kill."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
from pebble.pool.process import TaskManager
from trees import alive, living_children, load, many_videos, wait_for

from memdpc.base.errors import DatasetError
from memdpc.data import index as index_module
from memdpc.data.guard import entry_of_death, run_guarded
from memdpc.data.index import Index, describe, examine

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")


@pytest.fixture
def many(tmp_path):
    return many_videos(tmp_path / "f")


def refused(*args, **more):
    """The one line of the error, which the command line turns into exit status 2."""
    with pytest.raises(DatasetError) as error:
        load(*args, **more)
    text = str(error.value)
    assert "\n" not in text
    return text


FAULTY = """
import os, signal, sys, time, unittest.mock
from memdpc.data import index
from memdpc.data.index import describe

def work(path):
    name = os.path.basename(path)
    if name == 'segv.avi': os.kill(os.getpid(), signal.SIGSEGV)
    if name == 'abort.avi': os.abort()
    if name == 'exit.avi': os._exit(3)
    if name == 'sysexit.avi': sys.exit(0)
    if name == 'raise.avi': raise RuntimeError('not thought of')
    if name == 'hang.avi': time.sleep(1000)
    if name == 'spin.avi':
        while True: pass
    if name == 'kill.avi': os.kill(os.getpid(), signal.SIGKILL)
    if name == 'term.avi': os.kill(os.getpid(), signal.SIGTERM)
    if name == 'chatter.avi':
        os.system('echo decoder chatter; echo decoder chatter >&2')
        print('more')
        os.write(2, b'more')
    if name == 'marked.avi':
        with open(path + '.pid', 'w') as file: file.write(str(os.getpid()))
        time.sleep(1000)
    if name != 'memory.avi': return describe(path)
    with unittest.mock.patch.object(index, 'probe', lambda path: bytearray(5 << 30)):
        return describe(path)
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Worker processes to which files of certain names do what a hostile file does."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/faulty_work.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    sys.modules.pop("faulty_work", None)
    work = import_module("faulty_work").work

    def run_faulty(_, *args):
        return run_guarded(work, *args)

    monkeypatch.setattr(index_module, "run_guarded", run_faulty)
    return work


BAD = {
    "segv": "crashes the decoder (SIGSEGV)",
    "abort": "crashes the decoder (SIGABRT)",
    "exit": "ends the process that opens it (exit status 3)",
    "sysexit": "breaks the decoder (SystemExit: 0)",
    "raise": "breaks the decoder (RuntimeError: not thought of)",
    "hang": "takes longer than 8 seconds",
    "spin": "takes longer than 8 seconds",
    "memory": "asks for more memory than there is",
}


def test_faults_are_reasons(many, faulty, capfd, monkeypatch):
    """Crashes, exits, hangs: each is the reason of its file, and all others are read.

    Nothing comes to the terminal.
    """
    for number, name in enumerate((*BAD, "chatter")):
        os.rename(many / f"{7 * number:03d}.avi", many / f"{name}.avi")
    names = sorted(path.name for path in many.glob("*.avi"))
    index = examine(many, names, 2, False, 8.0)
    reasons = {name.removesuffix(".avi"): index.get(name).get("reason") for name in names}
    assert {name: reason for name, reason in reasons.items() if reason} == BAD
    assert len(reasons) == 70
    assert capfd.readouterr() == ("", "")

    def unexpected(*args):
        pytest.fail("what is known is not tried again")

    monkeypatch.setattr(index_module, "run_guarded", unexpected)
    again = examine(many, ["hang.avi", "spin.avi", "segv.avi"], 2, False, 8.0)
    assert again.get("hang.avi")["limit"] == 8.0
    assert not index.fresh("hang.avi", 9.0)  # unless the limit is larger
    assert index.fresh("segv.avi", 2.0)


def test_a_crash_that_the_pool_does_not_notice(many, faulty, monkeypatch):
    """2026-11: a file that crashed its worker at once was noted to take too long.

    The pool learned of the worker's death before it learned which file the worker had.
    """
    start = TaskManager.task_start
    tries = []

    def late(manager, number, worker):
        if manager.tasks[number].payload.args[1].endswith("segv.avi"):
            tries.append(number)
            time.sleep(1.0 if len(tries) == 1 else 0)
        start(manager, number, worker)

    monkeypatch.setattr(TaskManager, "task_start", late)
    names = [f"{number:03d}.avi" for number in range(6)]
    for number, name in enumerate(("hang.avi", "segv.avi")):
        os.rename(many / names[number], many / name)
        names[number] = name
    index = examine(many, names, 2, False, 5.0)
    assert index.get("segv.avi")["reason"] == BAD["segv"]
    assert index.get("hang.avi")["reason"] == "takes longer than 5 seconds"
    assert len(tries) > 1
    assert sum("info" in index.get(name) for name in names) == 4


def test_a_crash_at_once_again_and_again(many, faulty):
    """Whatever dies first: every file has its entry, and none of the others is lost."""
    names = [f"{number:03d}.avi" for number in range(70)]
    for number in range(0, 70, 7):
        folder = many / f"{number}"
        folder.mkdir()
        os.rename(many / names[number], folder / "segv.avi")
        names[number] = f"{number}/segv.avi"
    index = examine(many, names, 1, False, 30.0)
    reasons = [index.get(name).get("reason") for name in names]
    assert reasons[::7] == ["crashes the decoder (SIGSEGV)"] * 10
    assert sum(reason is None for reason in reasons) == 60


@pytest.mark.parametrize("name,number", [("kill", "SIGKILL"), ("term", "SIGTERM")])
def test_a_killed_worker_is_one_line_and_what_was_found_is_kept(many, faulty, name, number):
    """Who kills a worker says nothing about the file: the scan ends, and begun again it goes on."""
    os.rename(many / "050.avi", many / f"{name}.avi")
    text = refused("folder", many, num_workers=1)
    assert f"was killed ({number})" in text
    assert f"{name}.avi" in text
    assert "start again" in text
    index = Index(many)
    assert 30 < len(index.lines) < 70
    assert not index.get(f"{name}.avi")
    os.rename(many / f"{name}.avi", many / "050.avi")
    assert len(load("folder", many, num_workers=1)) == 70


def test_workers_find_the_same(many, monkeypatch, tmp_path):
    data = (many / "000.avi").read_bytes()
    for i in range(0, 70, 9):
        (many / f"{i:03d}.avi").write_bytes(data[: 60 * i])
    alone = load("folder", many)
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "other"))
    assert load("folder", many, num_workers=3) == alone
    assert len(alone) + len(alone.skipped) == 70


SCRIPT = """
import sys
print('main runs')
ballast = bytearray(300 << 20)
import torch_like
from pathlib import Path
from memdpc.data.videos import load_dataset
from memdpc.data import index
from trees import living_children
import os

def watched(*args):
    for number, answer in enumerate(run_guarded(*args)):
        for pid in living_children(os.getpid()) if number % 20 == 9 else ():
            for line in Path(f'/proc/{pid}/status').read_text().splitlines():
                if line.startswith('VmHWM'): print(line.split()[1])
        yield answer

run_guarded, index.run_guarded = index.run_guarded, watched
print('videos', len(load_dataset('folder', sys.argv[1], num_workers=2)), 'torch' in sys.modules)
print(os.environ.get('OMP_NUM_THREADS'), __file__)
"""


@linux
def test_workers_inherit_nothing_and_import_little(many, tmp_path):
    """Whatever the parent holds or runs, its script does not run again in the workers.

    Nor is torch imported; and the parent's own environment is what it was.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "torch_like.py").write_text("print('imported')")
    places = [str(ROOT), str(ROOT / "tests/data")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, script, many], capture_output=True, text=True, env=env, timeout=300
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["main runs", "imported"], done.stderr
    assert lines[-2:] == ["videos 70 False", f"3 {script}"], done.stderr
    sizes = [int(line) for line in lines[2:-2]]
    assert max(sizes) < 120_000  # kB: numpy and FFmpeg, neither torch nor the ballast


def test_workers_that_cannot_start_are_one_line(many):
    context = get_context("spawn")
    executable = sys.executable
    context.set_executable("/bin/false")
    try:
        assert "cannot start" in refused("folder", many, num_workers=2)
    finally:
        context.set_executable(executable)


def test_what_an_exit_status_says_of_a_file(tmp_path):
    """A file that vanished meanwhile has no stamp; who kills a worker ends the work."""
    path = str(tmp_path / "x.avi")
    assert entry_of_death(path, -signal.SIGSEGV, 5) == {"reason": "No such file or directory"}
    (tmp_path / "x.avi").write_bytes(bytes(10**6))
    late = entry_of_death(path, -signal.SIGALRM, 5)
    assert late["reason"] == "takes longer than 15 seconds"  # ten seconds for each megabyte
    assert late["limit"] == 5
    with pytest.raises(DatasetError, match="SIGHUP"):
        entry_of_death(path, -signal.SIGHUP, 5)


@linux
def test_closing_the_iterator_ends_all_workers(many):
    """As Ctrl-C does, and an error of the one who takes the entries."""
    files = sorted(str(path) for path in many.glob("*.avi"))
    answers = run_guarded(describe, files, 2, 60.0)
    next(answers)
    workers = living_children(os.getpid())
    assert len(workers) == 2
    answers.close()
    assert not any(map(alive, workers))


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_scan_leaves_no_process_and_goes_on(tmp_path, many, number):
    """Ctrl-C, kill -9 and SIGTERM in the midst of 3,000 files.

    No orphan, no traceback, and the next scan opens only the rest.
    """
    data = (many / "000.avi").read_bytes()
    for i in range(70, 3000):
        (many / f"{i:04d}.avi").write_bytes(data)
    words = [sys.executable, "-m", "memdpc", "scan", "--dataset", "folder"]
    words += ["--root", str(many), "--out", str(tmp_path / "out")]
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        words, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True
    )
    index = Index(many).file
    wait_for(lambda: index.exists() and index.stat().st_size > 30_000)
    workers = living_children(running.pid)
    assert len(workers) == 2
    os.kill(running.pid, number)
    out, err = running.communicate(timeout=60)
    # SIGTERM is answered by clearing up; the exit status is that of a program that it ended.
    assert running.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err
    assert not out
    wait_for(lambda: not any(map(alive, workers)))
    assert not (tmp_path / "out/scan.csv").exists()
    known = len(Index(many).lines)
    assert 100 < known < 2900
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "3000" in done.stdout
    lines = index.read_bytes().split(b"\n")
    names = [line.split(b"\t")[0] for line in lines if line.endswith(b"}}")]
    assert 3000 <= len(names) <= 3000 + 2
    assert len(set(names)) == 3000


ORPHAN = """
import sys
sys.path.insert(0, sys.argv[1])
from faulty_work import work
from memdpc.data.guard import run_guarded
list(run_guarded(work, [sys.argv[2]], 1, 2.0))
"""


@linux
@pytest.mark.slow
def test_an_orphan_that_hangs_ends_by_its_own_alarm(tmp_path, many, faulty):
    """The parent is gone by kill -9 while a decoder hangs.

    The worker ends when its time for the file is over.
    """
    os.rename(many / "000.avi", many / "marked.avi")
    mark = many / "marked.avi.pid"
    words = [sys.executable, "-c", ORPHAN, tmp_path / "code", many / "marked.avi"]
    running = subprocess.Popen(words)
    pid = int(wait_for(lambda: mark.exists() and mark.read_text()))
    running.kill()
    running.wait()
    assert alive(pid)
    wait_for(lambda: not alive(pid))
