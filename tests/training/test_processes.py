"""Signals, readers and devices; what needs a process that is killed is in test_kills.py."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from toy_job import Numbers, ToyConfig, toy

from memdpc.base.errors import ConfigError, DatasetError, TrainingError
from memdpc.training import processes
from memdpc.training.processes import (
    Interruption,
    arithmetic,
    cores,
    keep_arithmetic,
    limit_threads,
    make_accelerator,
    make_loader,
)
from memdpc.training.run import Run

pytestmark = pytest.mark.trains


# ---- signals


def test_a_second_signal_acts_as_ever():
    with Interruption() as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher passing the same wish on
        assert asked.signum == signal.SIGINT
        asked.since -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_slurms_warning_counts_as_sigterm():
    with Interruption() as asked:
        signal.raise_signal(signal.SIGUSR1)
        assert asked.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_signals_go_elsewhere_in_a_thread():
    """A notebook server may run a job in a thread, which must not touch signals."""
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with Interruption() as asked:
            seen.append((asked.signum, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, before)]


# ---- readers


def test_a_reader_that_is_killed_ends_the_run_with_a_line(tmp_path):
    def die(index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    said = "a process that reads videos died .*try fewer num_workers; last good checkpoint: none"
    with pytest.raises(TrainingError, match=said):
        toy(tmp_path, fault=die, num_workers=2)


def test_an_error_of_a_reader_is_one_line(tmp_path):
    def fail(index):
        raise DatasetError("the/root: a hundred videos in a row cannot be read any more")

    with pytest.raises(TrainingError) as raised:
        toy(tmp_path, fault=fail, num_workers=1)
    assert str(raised.value) == "the/root: a hundred videos in a row cannot be read any more"


def test_a_fault_of_the_machine_is_one_line_too(tmp_path):
    """2026-11: a reader without file handles took the next video for each that it could not open.

    Others ended with PyTorch's traceback.
    """

    def fail(index):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "v.mp4")

    with pytest.raises(TrainingError) as raised:
        toy(tmp_path, fault=fail, num_workers=1)
    assert str(raised.value) == "v.mp4: cannot be read (Too many open files)"


def read_under_fire(outcome):
    """Loaders one after the other, while all processes are told to end, every few milliseconds.

    The main process ignores it.
    """
    os.setpgid(0, 0)
    main = os.getpid()
    signal.signal(signal.SIGTERM, lambda *note: None)
    if not os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while os.getppid() == main:
            os.killpg(main, signal.SIGTERM) or time.sleep(0.005)
        os._exit(0)
    outcome.put(
        sum(
            len(batch["x"])
            for _ in range(6)
            for batch in make_loader(Numbers(), [[(0, 0), (0, 1)], [(0, 2)]], 2)
        )
    )


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows")
def test_readers_outlive_a_signal_that_comes_as_they_are_born():
    """So a queue ends its jobs: SIGTERM to each process. The main process alone decides."""
    fork = multiprocessing.get_context("fork")
    main = fork.Process(target=read_under_fire, args=(outcome := fork.Queue(),))
    main.start()
    try:
        assert outcome.get(timeout=20) == 6 * 3
    finally:
        main.kill()


LEFT_OVER = """
import numpy, sys
from memdpc.training.processes import make_loader
class Items:
    def __getitem__(self, key): return {"x": numpy.zeros(1)}
loader = make_loader(Items(), [[0]] * 100, 2)
batches = iter(loader)
next(batches)
loader.itself = loader, batches  # a cycle: no reference count ends the readers
"""


def test_a_program_ends_though_its_readers_ignore_sigterm():
    """2026-11: Python ends its children by SIGTERM, and waits for them without end."""
    done = subprocess.run([sys.executable, "-c", LEFT_OVER], timeout=100, capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_an_error_of_ones_own_is_not_taken_for_a_death(tmp_path):
    """A RuntimeError of the network, while readers are at work, stays what it is."""

    def fail(model, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        toy(tmp_path, compute=fail, num_workers=2)


def test_batches_are_the_same_where_shared_memory_does_not_serve(monkeypatch):
    """2026-11: Docker's 64 MB of /dev/shm ended a run in a traceback of PyTorch's."""
    batches = [[(0, 0), (0, 1)], [(0, 2)]]
    expected = list(make_loader(Numbers(), batches, 0))
    monkeypatch.setattr(processes, "shared_memory_serves", lambda size, readers: False)
    found = list(make_loader(Numbers(), batches, 1))
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


SPAWNED = """
import multiprocessing
multiprocessing.set_start_method("spawn")
import numpy
from memdpc.training.processes import make_loader, watched_workers
class Items:
    def __getitem__(self, key): return {"x": numpy.zeros(1)}
with watched_workers():
    list(make_loader(Items(), [[0]], 1))
"""


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_so(tmp_path):
    """2026-11: where processes are spawned, memory was said to have run out."""
    (tmp_path / "plain.py").write_text(SPAWNED)
    words = [sys.executable, str(tmp_path / "plain.py")]
    done = subprocess.run(words, timeout=300, capture_output=True, text=True)
    assert "new processes run plain.py again" in done.stderr.splitlines()[-1]


# ---- devices


def test_threads_leave_the_readers_their_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        for num_workers in (0, 1, 1000):
            limit_threads(num_workers)
            assert torch.get_num_threads() == max(1, cores() - num_workers)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        limit_threads(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_resumed_run_keeps_its_threads(tmp_path, monkeypatch, caplog):
    """2026-11: another number of workers left another number of threads, and other last bits."""
    before = torch.get_num_threads()
    accelerator = make_accelerator("cpu")
    run = Run(tmp_path, ToyConfig())
    run.state["step"] = 3
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        run.state["arithmetic"] = arithmetic(accelerator) | {"threads": cores()}
        limit_threads(1000)
        keep_arithmetic(run, accelerator)
        assert torch.get_num_threads() == cores() and not caplog.text
        for name, value in dict(threads=cores() + 1, torch="1.0", capability="ABACUS").items():
            run.state["arithmetic"] = arithmetic(accelerator) | {name: value}
            keep_arithmetic(run, accelerator)
            assert f"not exact to the last bit: {name} {value} -> " in caplog.text
        assert torch.get_num_threads() == cores()
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        run.state["arithmetic"] = arithmetic(accelerator) | {"threads": 2}
        keep_arithmetic(run, accelerator)
        assert torch.get_num_threads() == 1 and "bit: threads 2 -> 1" in caplog.text
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there(device):
    if (
        device == "cuda"
        and torch.cuda.is_available()
        or device == "mps"
        and torch.backends.mps.is_available()
    ):
        pytest.skip("it is there")
    with pytest.raises(ConfigError, match=device):
        make_accelerator(device)
