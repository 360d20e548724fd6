"""Runs that are killed, interrupted, out of disk or on many processes: all of it real."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from memdpc.data.video import write_video
from memdpc.training.run import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kills")]

# Imports once, then forks a process for every line: argv of `memdpc`, and the files for its output.
# Answers are process ids and exit statuses.
LAUNCHER = """
import json, os, sys, time
import memdpc.cli, memdpc.training.pretrain
for line in sys.stdin:
    job = json.loads(line)
    if 'wait' in job:
        pid, status, until = 0, 0, time.time() + job['seconds']
        while not pid and time.time() < until:
            pid, status = os.waitpid(job['wait'], os.WNOHANG)
            if not pid: time.sleep(.01)
        print(os.waitstatus_to_exitcode(status) if pid else 'none', flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    os.setsid()
    for number, name in ((0, os.devnull), (1, job['out']), (2, job['err'])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(job['env'])
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, 'w'), open(2, 'w', buffering=1)
    code = 1
    try:
        memdpc.cli.main(job['argv'])
        code = 0
    except SystemExit as stop: code = stop.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    import atexit
    atexit._run_exitfuncs()          # as at the end of any Python program
    sys.stdout.flush()
    os._exit(code)
"""


class Launcher:
    """Starts `memdpc` commands in sessions of their own, without three seconds of imports each."""

    def __init__(self, folder):
        self.folder, self.count, self.started = folder, 0, []
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self, *argv, **env):
        self.count += 1
        files = {name: str(self.folder / f"{name}-{self.count}") for name in ("out", "err")}
        self.started.append(int(self.ask(argv=[str(word) for word in argv], env=env, **files)))
        return self.started[-1]

    def wait(self, pid, seconds=100):
        answer = self.ask(wait=pid, seconds=seconds)
        if answer == "none":
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError(f"still running after {seconds} s: {self.said()}")
        return int(answer)

    def run(self, *argv, **env):
        return self.wait(self.start(*argv, **env))

    def said(self):
        path = self.folder / f"err-{self.count}"
        return path.read_text() if path.exists() else ""  # it may be about to start

    def line(self):
        """The one line that a stopped or failed run ends with."""
        text = self.said()
        assert "Traceback" not in text, text
        lines = [line for line in text.splitlines() if line.startswith("memdpc: ")]
        assert len(lines) == 1 and text.endswith(lines[0] + "\n"), text
        return lines[0]


def launched_here(pid):
    try:
        return "memdpc.cli" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    made = Launcher(tmp_path_factory.mktemp("launcher"))
    yield made
    for pid in made.started:  # what a failed test left running
        if launched_here(pid):
            os.killpg(pid, signal.SIGKILL)
    made.process.stdin.close()
    made.process.wait(10)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of 30 small videos, with an index of its own."""
    folder, noise = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(30):
        write_video(
            folder / f"{number:02d}.mp4",
            noise.integers(0, 255, (10, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2),
        )
    os.environ["MEMDPC_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return folder


SIZES = [
    "--preset",
    "demo",
    "--dataset",
    "folder",
    "--img_size",
    "32",
    "--num_blocks",
    "3",
    "--block_len",
    "3",
    "--pred_steps",
    "1",
    "--mem_size",
    "8",
    "--batch_size",
    "4",
    "--epochs",
    "10",
    "--log_every",
    "1",
    "--checkpoint_every",
    "2",
    "--val_fraction",
    "0.2",
    "--val_every",
    "2",
    "--device",
    "cpu",
]  # 24 videos: 6 steps an epoch, 60 in all


def job(videos, out, *more, resume=True, num_workers=0):
    return [
        "pretrain",
        *SIZES,
        "--root",
        videos,
        "--out",
        out,
        "--resume",
        resume,
        "--num_workers",
        num_workers,
        *more,
    ]


@pytest.fixture(scope="module")
def whole(launcher, videos, tmp_path_factory):
    """The folder of the undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert launcher.run(*job(videos, out), MEMDPC_CACHE=os.environ["MEMDPC_CACHE"]) == 0, (
        launcher.said()
    )
    return out


def last(out):
    return max((out / "checkpoints").glob("step-*"))


def assert_same_run(out, whole):
    """Bit for bit: last and best weights, the optimizer's state, the metrics, the results."""
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == sorted(
        path.name for path in (whole / "checkpoints").iterdir()
    )
    for folder in (whole / "checkpoints").iterdir():
        for name in ("model.safetensors", "optimizer.pt"):
            assert (folder / name).read_bytes() == (
                out / "checkpoints" / folder.name / name
            ).read_bytes(), (folder.name, name)
    assert (out / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (out, whole)]
    assert [figure.pop("seconds") > 0 for figure in figures] == [True, True]
    assert figures[0] == figures[1]


def wait_for(what, seconds=60, pause=0.0002):
    """Poll until `what()` is true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(pause)


def processes(word):
    """Process ids whose command line mentions a folder; zombies are gone already."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if (
                word in (status.parent / "cmdline").read_text()
                and "\nState:\tZ" not in status.read_text()
            ):
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def children(pid):
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def alive(pids):
    return [
        pid
        for pid in pids
        if Path(f"/proc/{pid}").exists()
        and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    ]


def test_ten_kills(launcher, videos, tmp_path):
    """kill -9 at ten moments, half of them while a checkpoint is written; 0, 1 and 2 readers."""
    out = tmp_path / "run"
    longer = ("--epochs", 20)  # 120 steps: a busy machine is late with its kills
    assert launcher.run(*job(videos, tmp_path / "whole", *longer)) == 0, launcher.said()
    checkpoints = out / "checkpoints"
    rng = random.Random(0)
    met = 0  # kills that left a half-written checkpoint
    steps = []

    def last_name():
        return max((folder.name for folder in checkpoints.glob("step-*")), default="")

    for number in range(10):
        pid = launcher.start(*job(videos, out, *longer, num_workers=number % 3))
        if number % 2:
            wait_for(lambda: list(checkpoints.glob(".*.part")))
            time.sleep(rng.uniform(0, 0.01))
        else:
            before = last_name()
            wait_for(lambda before=before: last_name() != before)
            time.sleep(rng.uniform(0, 0.05))
        os.killpg(pid, signal.SIGKILL)
        assert launcher.wait(pid) == -signal.SIGKILL, launcher.said()
        met += bool(list(checkpoints.glob(".*.part")))
        steps.append(int(last_name()[5:] or 0))
    assert met >= 2 and steps == sorted(steps) and steps[-1] < 120, (met, steps)
    assert launcher.run(*job(videos, out, *longer, num_workers=2)) == 0, launcher.said()
    assert_same_run(out, tmp_path / "whole")


def session_of(leader):
    """Processes that live in the session of a job, the job among them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def disturb(pid, rng, longest):
    """Send a random signal to a random process of a job, at a random moment: which, and to what."""
    time.sleep(rng.uniform(0, longest))
    readers = children(pid)
    target = rng.choice(["job", "all", "reader"] if readers else ["job", "all"])
    signum = rng.choice(SOAK_SIGNALS)
    repeats = rng.choice([1, 1, 1, 2, 5])  # launchers pass signals on
    with contextlib.suppress(ProcessLookupError):
        for _ in range(repeats):
            if target == "all":
                os.killpg(pid, signum)
            else:
                os.kill(rng.choice(readers) if target == "reader" else pid, signum)
        if signum == signal.SIGSTOP:
            time.sleep(0.3)
            os.killpg(pid, signal.SIGCONT)
    return signum, target


SOAK_SIGNALS = (
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGHUP,
    signal.SIGSTOP,
)
# Done; stopped by Ctrl-C, SIGTERM or SIGHUP; ended by a signal before anybody answered it.
SOAK_ENDS = {0, 129, 130, 143, *(-signum for signum in SOAK_SIGNALS)}


def test_soak(launcher, videos, whole, tmp_path):
    """All kinds of signals, at any moment, to any process, with any number of readers.

    Half a minute of it; `make soak` takes twenty.
    """
    seed = int(os.environ.get("MEMDPC_SOAK_SEED", time.time_ns() % 10**6))
    rng = random.Random(seed)
    end = time.monotonic() + 60 * float(os.environ.get("MEMDPC_SOAK_MINUTES", 0.5))
    sent = Counter()
    finished = 0
    while time.monotonic() < end:
        out = tmp_path / f"run-{finished}"
        status = None
        while status != 0:
            pid = launcher.start(*job(videos, out, num_workers=rng.randrange(3)))
            signum, target = disturb(pid, rng, longest=3)
            status = launcher.wait(pid)
            sent[signal.Signals(signum).name, target] += 1
            where = f"seed {seed}, {sent.total()} signals, {signum} to {target}: {status}"
            assert "Traceback" not in launcher.said(), f"{where}\n{launcher.said()}"
            allowed = SOAK_ENDS | ({2} if target != "job" else set())  # 2: a reader was killed
            assert status in allowed, f"{where}\n{launcher.said()}"
            wait_for(lambda pid=pid: not session_of(pid), pause=0.05)
        assert_same_run(out, whole)
        shutil.rmtree(out)
        finished += 1
    print(f"seed {seed}: {sent.total()} signals, {finished} runs equal; {dict(sent)}")


def test_killed_before_the_first_checkpoint(launcher, videos, whole, tmp_path):
    out = tmp_path / "run"
    pid = launcher.start(*job(videos, out))
    wait_for(lambda: (out / "metrics.csv").exists())
    os.killpg(pid, signal.SIGKILL)
    launcher.wait(pid)
    assert not list((out / "checkpoints").glob("step-*"))
    assert launcher.run(*job(videos, out)) == 0
    assert_same_run(out, whole)


def test_a_finished_run_is_left_alone(launcher, videos, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert launcher.run(*job(videos, whole)) == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("moment", ["training", "validation", "first step"])
def test_asked_to_stop(launcher, videos, whole, tmp_path, signum, num_workers, moment):
    """The signal goes to the whole process group: saved, one line, no process left; then on."""
    out = tmp_path / "run"
    pid = launcher.start(*job(videos, out, num_workers=num_workers))
    rows = out / "metrics.csv"
    if moment == "first step":
        wait_for(lambda: "videos to train on" in launcher.said())
        time.sleep(0.05)
    else:
        step = 12 if moment == "validation" else 9
        wait_for(lambda: rows.exists() and f"\n{step},1,train,lr" in rows.read_text())
    workers = children(pid)
    os.killpg(pid, signum)
    status = launcher.wait(pid)
    before_the_loop = "stopped; what was found" in launcher.said() or status == -signum
    if moment == "first step" and before_the_loop:  # nothing to save
        assert "Traceback" not in launcher.said()
    else:
        assert status == 128 + signum
        assert (
            launcher.line()
            == f"memdpc: stopped at step {int(last(out).name[5:])}, saved; go on with --resume True"
        )
    wait_for(lambda: not alive(workers), 10)
    assert launcher.run(*job(videos, out)) == 0, launcher.said()
    assert_same_run(out, whole)


def test_interrupted_while_videos_are_opened(launcher, tmp_path):
    folder, noise = tmp_path / "many", np.random.default_rng(0)
    folder.mkdir()
    write_video(folder / "0.mp4", noise.integers(0, 255, (60, 64, 64, 3), dtype=np.uint8))
    for number in range(1, 400):
        os.link(folder / "0.mp4", folder / f"{number}.mp4")
    for num_workers, signum in ((0, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM)):
        cache = str(tmp_path / f"cache-{num_workers}-{signum}")
        out = tmp_path / f"run-{num_workers}-{signum}"
        pid = launcher.start(*job(folder, out, num_workers=num_workers), MEMDPC_CACHE=cache)
        wait_for(
            lambda cache=cache: any(Path(cache).rglob("*.jsonl"))
        )  # the first video is in the index
        assert len(children(pid)) >= num_workers
        readers = children(pid)
        os.killpg(pid, signum)
        assert launcher.wait(pid, 20) in (130, 143, -signal.SIGTERM)
        assert (
            "videos to train on" not in launcher.said() and not out.exists()
        )  # it was still opening them
        assert "Traceback" not in launcher.said(), (num_workers, signum, launcher.said())
        wait_for(lambda readers=readers: not alive(readers), 10)


def test_no_reader_outlives_a_kill(launcher, videos, tmp_path):
    out = tmp_path / "run"
    pid = launcher.start(*job(videos, out, num_workers=2))
    wait_for(lambda: (out / "checkpoints").exists() and list((out / "checkpoints").glob("step-*")))
    workers = children(pid)
    os.kill(pid, signal.SIGKILL)  # the main process alone
    assert workers and launcher.wait(pid) == -signal.SIGKILL
    wait_for(lambda: not alive(workers), 20, 0.1)


def test_a_killed_reader_ends_the_run_in_a_line(launcher, videos, whole, tmp_path):
    out = tmp_path / "run"
    pid = launcher.start(*job(videos, out, num_workers=2))
    wait_for(
        lambda: (
            (out / "checkpoints").exists()
            and list((out / "checkpoints").glob("step-*"))
            and children(pid)
        )
    )
    workers = children(pid)
    for worker in workers:  # as the kernel does when memory runs out
        with contextlib.suppress(ProcessLookupError):  # those of a validation may have ended
            os.kill(worker, signal.SIGKILL)
    assert launcher.wait(pid) == 2
    assert (
        "a process that reads videos died" in launcher.line()
        and "last good checkpoint" in launcher.line()
    )
    wait_for(lambda: not alive(workers), 20, 0.1)
    assert launcher.run(*job(videos, out)) == 0
    assert_same_run(out, whole)


def test_a_loss_that_is_nan_and_a_damaged_checkpoint(launcher, videos, whole, tmp_path):
    out = tmp_path / "run"
    pid = launcher.start(*job(videos, out))
    wait_for(
        lambda: (out / "metrics.csv").exists() and "\n5,0," in (out / "metrics.csv").read_text()
    )
    os.killpg(pid, signal.SIGTERM)
    assert launcher.wait(pid) == 143
    weights, step = last(out) / "model.safetensors", int(last(out).name[5:])
    good = weights.read_bytes()
    state = load_file(weights)
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name][:] = float("nan")
    save_file(state, weights)
    bad = weights.read_bytes()
    assert launcher.run(*job(videos, out)) == 2
    line = launcher.line()
    assert f"{last(out)}: damaged ({name}: NaN or infinite in the checkpoint)" in line
    assert weights.read_bytes() == bad and last(out).name == f"step-{step:08d}"
    weights.write_bytes(good[:-100])
    assert launcher.run(*job(videos, out)) == 2
    assert f"{last(out)}: damaged (" in launcher.line() and "begin anew" in launcher.line()
    assert launcher.run(*job(videos, out, "--lr", "0.5")) == 2
    assert "was begun with other settings (lr: " in launcher.line() and launcher.line().endswith(
        "-> 0.5)"
    )
    weights.write_bytes(good)
    assert launcher.run(*job(videos, out)) == 0
    assert_same_run(out, whole)


@pytest.fixture
def disk(tmp_path):
    """Mounts a small file system: `disk('size=3m')`."""
    mounted = []

    def mount(options):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    if os.name != "posix" or not shutil.which("mount"):
        pytest.skip("no mount here")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(launcher, videos, whole, tmp_path, disk):
    """The disk fills up while a checkpoint is written; the earlier one stays whole."""
    size = sum(path.stat().st_size for path in last(whole).iterdir())
    out = (
        disk(f"size={int(3.6 * size) // 4096 * 4}k") / "run"
    )  # room for three checkpoints, not four
    (out.parent / "ballast").write_bytes(
        b"\0" * int(1.2 * size)
    )  # now for two: the last and half of the next
    pid = launcher.start(*job(videos, out))
    wait_for(lambda: (out / "checkpoints").exists() and list((out / "checkpoints").glob("step-*")))
    more = max(shutil.disk_usage(out).free - size // 2, 0)
    with contextlib.suppress(OSError):  # the next checkpoint may be taking the room already
        (out.parent / "more").write_bytes(b"\0" * more)
    assert launcher.wait(pid) == 2, launcher.said()
    line = launcher.line()
    assert "cannot be written" in line or "No space left on device" in line, line
    assert (
        not list((out / "checkpoints").glob(".*.part"))
        and len(list((out / "checkpoints").glob("step-*"))) >= 1
    )
    load_file(last(out) / "model.safetensors")
    assert launcher.run(*job(videos, out)) == 2  # still full: the same again, nothing lost
    launcher.line()
    for name in ("ballast", "more"):
        (out.parent / name).unlink()
    assert launcher.run(*job(videos, out)) == 0, launcher.said()
    assert_same_run(out, whole)


def test_a_disk_without_any_space(launcher, videos, disk):
    folder = disk("size=64k")
    (folder / "ballast").write_bytes(b"\0" * 60 * 1024)
    assert launcher.run(*job(videos, folder / "run")) == 2
    assert "No space left on device" in launcher.line()


def test_a_folder_that_cannot_be_written(launcher, videos, disk):
    folder = disk("size=64k,ro")
    assert launcher.run(*job(videos, folder / "run")) == 2
    assert "Read-only file system" in launcher.line() and str(folder) in launcher.line()


# ---- many processes


def launched(launcher, *argv):
    """A launcher of processes in a session of its own; the port is free, output goes to a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *(str(port) if word == "PORT" else str(word) for word in argv)]
    with open(launcher.folder / "launched", "w") as said:
        return subprocess.Popen(command, start_new_session=True, stdout=said, stderr=said)


def two(launcher, videos, out, *more, num_workers=0):
    """`torchrun` with two processes: what accelerate starts where there are two GPUs."""
    return launched(
        launcher,
        "torch.distributed.run",
        "--nproc_per_node",
        2,
        "--master_port",
        "PORT",
        "-m",
        "memdpc",
        *job(videos, out, "--max_steps", 9, *more, num_workers=num_workers),
    )


def kill_all(out, process):
    for pid in [process.pid, *processes(str(out))]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(20)
    wait_for(lambda: not processes(str(out)), 20)


def reached(out, row, process):
    """Whether a run's metrics have a row; a run that ended without it fails."""
    if (out / "metrics.csv").exists() and row in (out / "metrics.csv").read_text():
        return True
    assert process.poll() is None, "ended too soon"
    return False


def test_two_processes_are_killed_and_go_on(launcher, videos, tmp_path):
    """Five steps, kill -9 of everything, resume with readers: ends as the undisturbed run."""
    whole, out, said = tmp_path / "whole", tmp_path / "run", launcher.folder / "launched"
    assert two(launcher, videos, whole).wait(240) == 0, said.read_text()
    killed = two(launcher, videos, out)
    wait_for(lambda: reached(out, "\n5,1,train,lr", killed), 240, 0.001)
    kill_all(out, killed)
    assert list((out / "checkpoints").glob("step-*")) and not (out / "metrics.json").exists()
    assert launcher.run(*job(videos, out, "--max_steps", 9)) == 2
    assert "processes: 2 -> 1" in launcher.line()
    assert two(launcher, videos, out, num_workers=1).wait(240) == 0, said.read_text()
    assert_same_run(out, whole)
    assert json.loads((out / "metrics.json").read_text())["processes"] == 2
    assert (
        max(int(row["epoch"]) for row in read_metrics(out)) == 2
    )  # 24 videos, 2 x 4 a step: three steps an epoch


def test_two_processes_are_asked_to_stop(launcher, videos, tmp_path):
    """Ctrl-C at the launcher: both processes finish the same step; nothing is left running."""
    out = tmp_path / "run"
    running = two(launcher, videos, out, "--max_steps", 10000, "--epochs", 10000, num_workers=1)
    wait_for(lambda: reached(out, "\n2,0,train,lr", running), 240)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(100)
    assert (launcher.folder / "launched").read_text().count("memdpc: stopped at step") == 2
    assert list((out / "checkpoints").glob("step-*")) and not list(
        (out / "checkpoints").glob(".*.part")
    )
    wait_for(lambda: not processes(str(out)), 20)


def test_accelerate_launch(launcher, videos, tmp_path):
    """On CPUs accelerate starts one process, whatever it is asked for; the run says so."""
    out, said = tmp_path / "run", launcher.folder / "launched"
    command = [
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        2,
        "--main_process_port",
        "PORT",
        "-m",
        "memdpc",
        *job(videos, out, "--max_steps", 9),
    ]
    killed = launched(launcher, *command)
    wait_for(lambda: reached(out, "\n5,0,train,lr", killed), 240, 0.001)
    kill_all(out, killed)
    assert launched(launcher, *command).wait(240) == 0, said.read_text()
    assert "starts one process only" in said.read_text()
    whole = tmp_path / "whole"
    assert launcher.run(*job(videos, whole, "--max_steps", 9)) == 0
    assert_same_run(out, whole)


# ---- the paper's sizes


def test_one_step_of_the_paper(launcher, tmp_path):
    """The preset paper-ucf101 takes one optimiser step on two clips of 8 x 3 x 5 x 128 x 128."""
    classes, noise = ("Jump", "Run"), np.random.default_rng(0)
    (tmp_path / "set/splits_classification").mkdir(parents=True)
    names = [f"{c}/v_{c}_g{group:02d}_c01.mp4" for c in classes for group in (1, 2)]
    for name in names:
        (tmp_path / "set/videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(
            tmp_path / "set/videos" / name,
            noise.integers(0, 255, (125, 12, 16, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2),
        )
    splits = tmp_path / "set/splits_classification"
    (splits / "classInd.txt").write_text("1 Jump\n2 Run\n")
    (splits / "trainlist01.txt").write_text(
        "".join(f"{name} {1 + classes.index(name.split('/')[0])}\n" for name in names)
    )
    status = launcher.run(
        "pretrain",
        "--preset",
        "paper-ucf101",
        "--root",
        tmp_path / "set",
        "--out",
        tmp_path / "run",
        "--batch_size",
        2,
        "--max_steps",
        1,
        "--num_workers",
        0,
        "--device",
        "cpu",
        "--val_fraction",
        0,
        MEMDPC_CACHE=str(tmp_path / "cache"),
    )
    assert status == 0, launcher.said()
    rows = {row["name"]: float(row["value"]) for row in read_metrics(tmp_path / "run")}
    assert rows["lr"] == 1e-3 and 0 < rows["loss"] < 100
    sizes = json.loads((last(tmp_path / "run") / "config.json").read_text())
    assert sizes.get("encoder", "resnet18") == "resnet18"
    assert load_file(last(tmp_path / "run") / "model.safetensors")["predictor.slots"].shape == (
        1024,
        256,
    )
