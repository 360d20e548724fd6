"""What a small or odd machine gives a process, and what to do where it is too little.

Errors are recognised by their type and number, and by what the machine says of itself: the text of
an error changes with the version of the library that wrote it.
"""

import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memdpc.base.errors import MachineError

try:
    import resource
except ImportError:  # Windows, which has no such limits
    resource = None

SHARED_MEMORY = Path("/dev/shm")  # a disk in memory through which processes hand over arrays
FILES_OF_A_JOB = 128  # more than a job without readers ever has open
FILES_TO_START = 8  # pipes of a process that is being started
FILES_OF_A_READER = 32  # its pipes, and the arrays of the batches that it has ready


def limit_of(name: str) -> int | None:
    """What this process may use of `RLIMIT_NAME`; None: as much as there is."""
    if resource is None or not hasattr(resource, f"RLIMIT_{name}"):
        return None
    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return None if soft == resource.RLIM_INFINITY else soft


def raise_open_files() -> None:
    """Let this process open as many files as the system grants it without asking anyone."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def shared_memory_serves(size: int, num_readers: int) -> bool:
    """Whether readers can hand over batches of `size` bytes through shared memory.

    Each of them may be about to take room for one, twice as much is left to others. An array is an
    open file as well.
    """
    files = limit_of("NOFILE")
    if files is not None and files < FILES_OF_A_JOB + FILES_OF_A_READER * num_readers:
        return False
    return not SHARED_MEMORY.is_dir() or free_shared_memory() >= 2 * size * num_readers


def free_shared_memory() -> int:
    """Free bytes in /dev/shm; 0 where there is none."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0


def explain(error: BaseException) -> str:
    """What ran short where `error`, or one that it came from, tells so; else ''."""
    seen: BaseException | None = error
    while seen is not None:
        text = _explain_one(seen)
        if text:
            return text
        seen = seen.__cause__ or seen.__context__
    return ""


def _explain_one(error: BaseException) -> str:
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and limit_of("AS")):
        return _out_of_memory()
    if isinstance(error, RuntimeError) and _near_limit():
        return _out_of_memory()
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOMEM:
        return _out_of_memory()
    if number == errno.EMFILE:
        return (
            f"too many open files: this process may open {limit_of('NOFILE')}; "
            "allow more with ulimit -n, or try fewer num_workers"
        )
    if number == errno.ENFILE:
        return "too many open files on this machine; try fewer num_workers"
    if isinstance(error, BlockingIOError):
        return "no more processes may be started (ulimit -u); try fewer num_workers"
    return ""


def _out_of_memory() -> str:
    limit = limit_of("AS")
    allowed = "" if limit is None else f": this process may use {limit / 1e6:.0f} MB (ulimit -v)"
    return f"out of memory{allowed}; try fewer num_workers, or a smaller batch_size or img_size"


def _near_limit() -> bool:
    """Whether this process once took nearly all of its address space; only Linux tells."""
    limit = limit_of("AS")
    if limit is None:
        return False
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    peaks = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmPeak:")]
    return any(peak > 0.75 * limit for peak in peaks)


def _open_and_close(count: int) -> None:
    """Raises `OSError` where this process may not open so many files more."""
    found: list[int] = []
    try:
        for _ in range(count):
            found.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for number in found:
            os.close(number)


@contextmanager
def starting_processes(count: int) -> Iterator[None]:
    """So many processes are started here: what the system refuses them is said in one line.

    Locks and pipes are tried out first, because what is half started complains when it goes. Raises
    `MachineError`.
    """
    try:
        if count:
            multiprocessing.Lock()
            _open_and_close(FILES_TO_START * (count + 1))
        yield
    except OSError as error:
        reason = explain(error)
        if not reason:
            free = free_shared_memory() / 1e6
            reason = str(error.strerror or error).lower()
            reason += f"; locks lie in {SHARED_MEMORY}, where {free:.1f} MB are free"
        advice = "num_workers 0 needs no other process"
        raise MachineError(f"no process can be started here ({reason}); {advice}") from error


@contextmanager
def signals_held_back(signals: Iterable[int]) -> Iterator[None]:
    """These signals reach this process afterwards, and its children, born meanwhile, never.

    A child that is half started when its parent raises an exception complains about it, and one
    that has not yet said what it ignores would die. What holds a signal back is inherited; a child
    that shall mind it again says so.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


__all__ = []
