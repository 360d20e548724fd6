"""Worker processes for files that may crash a decoder, keep it busy for ever, or fill the memory.

A decoder is written in C, and some files bring it down. Python's own pools are not made for that:
when one process dies all unfinished work is lost, and a process that hangs is waited for. Here each
file has a time limit, each process a memory limit, and a process that dies is replaced. What a file
did to its process becomes its *reason*, which the index keeps (`memdpc.data.index`).

Only a process that was killed from outside tells nothing about its file (Linux kills when memory
runs out, a cluster when a job's time is up). Then the work ends with a `DatasetError` that says so.
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context, resource_tracker
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from pebble import ProcessExpired, ProcessPool
from pebble.pool.process import WORKERS_NAME

from memdpc.base.errors import DatasetError, printable
from memdpc.base.files import stamp
from memdpc.base.limits import signals_held_back

try:
    import resource
except ImportError:  # Windows: no memory limit there
    resource = None

Entry = dict[str, Any]  # what is known of a file; `memdpc.data.index` says what stands in it
Work = Callable[..., Entry]

WORKER_MEMORY = 4 << 30  # bytes; sixteen pictures of MAX_PIXELS take less than half of it
TASKS_AHEAD = 8  # files given to the pool for each worker: one at work, the others waiting
ATTEMPTS = 3  # pools that may break one after the other, without a single result
GRACE = 2.0  # seconds after which a parent stops a worker that should have ended itself
PATIENCE = 60.0  # seconds without a result, beyond all time limits, after which a pool is given up

_FAULT_NAMES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
_FAULTS = {getattr(signal, name) for name in _FAULT_NAMES if hasattr(signal, name)}
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Python's helper process need not tell the terminal that its parent was killed.
    "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",
}
_ALARM = getattr(signal, "SIGALRM", None)


def seconds_for(
    path: str,
    time_limit: float,
) -> float:
    """How long opening a file may take: `time_limit`, and ten seconds for each megabyte."""
    try:
        return time_limit + os.path.getsize(path) / 1e5
    except OSError:
        return time_limit


def run_guarded(
    work: Work, paths: Iterable[str], num_workers: int, time_limit: float, *args: Any
) -> Generator[tuple[str, Entry], None, None]:
    """`(path, work(path, *args))` for each path, in the order in which they are done.

    Args:
        work: a function of a module, which returns the entry of a file; it runs in the workers
        paths: absolute, for a worker may have another working directory
        num_workers: processes
        time_limit: seconds that a file may take, and ten more for each megabyte
        args: given to `work` after the path

    A file that crashes a worker, or for which it takes too long, gets `{"stamp", "reason"}`; too
    long adds `"limit"`, the time limit; one that the worker's own alarm cannot end waits for a disk
    or network, and gets no `"stamp"`. Raises `DatasetError` where a worker was killed from
    outside, or none can be started. Closing the iterator ends all workers.
    """
    waiting = deque(paths)
    tried_again: set[str] = set()
    failures = 0
    with plain_children():
        while waiting:
            pool = _GuardedPool(work, args, min(num_workers, len(waiting)), time_limit)
            try:
                while waiting or pool.given:
                    pool.fill(waiting)
                    path, future = pool.next_done()
                    failures = 0
                    doubtful = _is_lost(future) or _is_blamed(future)
                    if doubtful and path not in tried_again:
                        tried_again.add(path)
                        waiting.append(path)
                        continue
                    yield path, _entry_of(path, future, time_limit)
            except BrokenProcessPool as error:
                failures += 1
                if failures == ATTEMPTS:
                    reason = "worker processes cannot start, or are killed (memory, ulimit -n, -u?)"
                    raise DatasetError(f"{reason}; num_workers 0 starts none") from error
                waiting.extendleft(pool.given.values())
            finally:
                pool.close()


class _GuardedPool:
    """A pool of worker processes, and the files that it was given."""

    def __init__(
        self,
        work: Work,
        args: tuple,
        num_workers: int,
        time_limit: float,
    ) -> None:
        self.work = work
        self.args = args
        self.time_limit = time_limit
        self.most = TASKS_AHEAD * num_workers
        self.given: dict[Future, str] = {}
        self.done: SimpleQueue[Future] = SimpleQueue()
        self.longest = time_limit
        # Programs of their own: forked ones would count the parent's memory against their limit.
        self.pool = ProcessPool(
            max_workers=num_workers,
            initializer=_protect_process,
            initargs=(work,),  # imported at the start, by all workers at the same time
            context=get_context("spawn"),
        )

    def fill(self, waiting: deque[str]) -> None:
        """Give the pool files until every worker has some ahead."""
        while waiting and len(self.given) < self.most:
            self._give(waiting[0])
            waiting.popleft()

    def _give(self, path: str) -> None:
        seconds = seconds_for(path, self.time_limit)
        task = (self.work, path, self.args, seconds)
        timeout = seconds + GRACE if _ALARM is not None else seconds
        self.longest = max(self.longest, timeout)
        try:
            # The first task starts the threads that start the workers. On Ctrl-C a worker would
            # print a traceback; the parent answers it, and ends its workers.
            with signals_held_back([signal.SIGINT]):
                future = self.pool.schedule(_run_task, task, timeout=timeout)
        except RuntimeError as error:  # pebble's word for a pool that is broken
            raise BrokenProcessPool from error
        self.given[future] = path
        future.add_done_callback(self.done.put)

    def next_done(self) -> tuple[str, Future]:
        """Wait for a file to be done; `BrokenProcessPool` where none ever will be."""
        end = monotonic() + self.longest + PATIENCE
        while True:
            try:
                future = self.done.get(timeout=1.0)
            except Empty:
                # A worker that is killed while it takes a task from the queue takes it along.
                if not self.pool.active or monotonic() > end:
                    raise BrokenProcessPool from None
                continue
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise error
            return self.given.pop(future), future

    def close(self) -> None:
        """End all workers, wherever they are."""
        self.pool.stop()
        # Those that are still starting, too: `join` first removes the locks that they look for,
        # and they would print a traceback.
        for child in active_children():
            if child.name == WORKERS_NAME:
                child.kill()
        self.pool.join()


def _protect_process(work: Work) -> None:
    """What a worker does first: bound what a file can do to the machine and to the terminal."""
    _limit("RLIMIT_AS", WORKER_MEMORY)
    _limit("RLIMIT_CORE", 0)
    if hasattr(os, "setsid"):  # signals to the group reach the parent alone, which ends its workers
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, even in the middle of a decoder
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _limit(
    name: str,
    most: int,
) -> None:
    """Set one of the system's limits, where it has such."""
    if resource is None:
        return
    # Refused where a tighter limit is set already, or where the system does not know this one.
    with suppress(AttributeError, ValueError, OSError):
        kind = getattr(resource, name)
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _run_task(
    work: Work,
    path: str,
    args: tuple,
    seconds: float,
) -> Entry:
    """Open one file in a worker; an alarm ends it in time, be it an orphan."""
    if not hasattr(signal, "setitimer"):
        return work(path, *args)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work(path, *args)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _is_lost(future: Future) -> bool:
    """Whether a worker should have ended itself by its alarm, and did not.

    Then it hangs in the system, beyond the reach of signals; or it died at once, and the pool did
    not learn that the file was given to it. Such a file is tried once more.
    """
    return _ALARM is not None and isinstance(future.exception(), TimeoutError)


def _is_blamed(future: Future) -> bool:
    """Whether a worker died at this file, or at the next one.

    Where it dies at once, the pool may learn of its death before it reads the last result. Such a
    file is tried once more.
    """
    error = future.exception()
    if not isinstance(error, ProcessExpired):
        return False
    return error.exitcode >= 0 or -error.exitcode in _FAULTS


def _entry_of(
    path: str,
    future: Future,
    time_limit: float,
) -> Entry:
    """What a worker found in a file, or what the file did to the worker."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, ProcessExpired):
        return entry_of_death(path, error.exitcode, time_limit)
    if _is_lost(future):
        return {"reason": "waits for a disk or a network that does not answer"}
    if isinstance(error, TimeoutError):
        return _entry_of_timeout(path, time_limit)
    return {"reason": f"breaks the decoder ({type(error).__name__}: {printable(error)})"}


def entry_of_death(
    path: str,
    status: int,
    time_limit: float,
) -> Entry:
    """The entry of a file at which a worker ended with an exit status (below 0: minus a signal).

    Raises `DatasetError` where the file is not to blame: somebody killed the worker.
    """
    if status >= 0:
        return {"reason": f"ends the process that opens it (exit status {status})"}
    if _ALARM is not None and status == -_ALARM:
        return _entry_of_timeout(path, time_limit)
    name = signal.Signals(-status).name
    if -status in _FAULTS:
        return _entry_with_reason(path, f"crashes the decoder ({name})")
    raise DatasetError(
        f"{path}: the process that opened it was killed ({name}), perhaps because memory ran out; "
        "what was found is kept: start again to go on, with fewer workers"
    )


def _entry_of_timeout(
    path: str,
    time_limit: float,
) -> Entry:
    seconds = seconds_for(path, time_limit)
    entry = _entry_with_reason(path, f"takes longer than {seconds:.0f} seconds")
    return entry | {"limit": time_limit}


def _entry_with_reason(
    path: str,
    reason: str,
) -> Entry:
    try:
        return {"stamp": stamp(path), "reason": printable(reason)}
    except OSError as error:
        return {"reason": error.strerror}


@contextmanager
def plain_children() -> Iterator[None]:
    """While this lasts, Python processes start without the user's script, and with one thread.

    `multiprocessing` runs the script of its parent again in each child, where it would do its work
    a second time, and may import torch.
    """
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    main = vars(sys.modules["__main__"])
    script = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    os.environ.update(_ENVIRONMENT)
    if hasattr(signal, "pthread_sigmask"):
        # Spawned processes need it, and its start would let signals through that are held back.
        resource_tracker.ensure_running()
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(script)
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


__all__ = []
