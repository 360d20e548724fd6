"""Files are opened by worker processes that may crash, hang or be killed."""

import json
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
from collections import deque
from importlib import import_module

from memdpc.base.errors import DatasetError
from memdpc.base.files import stamp

logger = logging.getLogger(__name__)


WORKER_MEMORY = 4 << 30  # bytes; sixteen pictures of MAX_PIXELS take less than half of it


def seconds_for(path, time_limit):
    "How long opening a file may take: `time_limit`, and ten seconds for each megabyte"
    try:
        return time_limit + os.path.getsize(path) / 1e5
    except OSError:
        return time_limit


def worker_main(time_limit, module="memdpc.data.index", function="describe", *more):
    "What a worker process does: lists of paths in on standard input, `function(path, *more)` for each out, as lines of JSON; at first it says `null`"
    for kind, most in (resource.RLIMIT_AS, WORKER_MEMORY), (resource.RLIMIT_CORE, 0):
        try:
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
        except (ValueError, OSError):
            pass  # a tighter limit is set already, or the system knows none
    work, answers = getattr(import_module(module), function), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    print("null", file=answers, flush=True)
    for line in sys.stdin.buffer:
        for path in json.loads(line):
            signal.setitimer(signal.ITIMER_REAL, seconds_for(path, time_limit))
            entry = work(path, *more)
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(json.dumps(entry), file=answers, flush=True)


class Worker:
    "A worker process, and the paths for which it still has to answer"

    def __init__(self, time_limit, *work):
        code = f"import sys; sys.path[:] = {sys.path!r}; from memdpc.data.guard import worker_main; worker_main(*{(time_limit, *work)!r})"
        alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | alone,
        )
        self.paths, self.rest = deque(), b""

    def give(self, paths):
        "Paths to a worker that has none; it reads them all before it begins"
        self.paths.extend(paths)
        try:
            self.process.stdin.write(json.dumps(paths).encode() + b"\n")
        except BrokenPipeError:
            pass  # it is gone: `answers` will tell

    def answers(self):
        "What it has answered by now, as [(path, entry)], and whether it ended"
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [
            (self.paths.popleft(), entry) for entry in map(json.loads, lines) if entry
        ], not data

    def end(self, ended=False):
        "Stop it, wherever it is, unless it has `ended`; its exit status"
        if not ended:
            self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()


FAULTS = {
    getattr(signal, name, None)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
}


def epitaph(path, status, time_limit):
    "The entry of a file at which a worker process ended with an exit status; raises `DatasetError` where the file is not to blame"
    if -status in FAULTS:
        reason = f"crashes the decoder ({signal.Signals(-status).name})"
    elif status == -signal.SIGALRM:
        reason = f"takes longer than {seconds_for(path, time_limit):.0f} seconds"
    elif status >= 0:
        reason = f"ends the process that opens it (exit status {status})"
    else:
        raise DatasetError(
            f"{path}: the process that opened it was killed ({signal.Signals(-status).name}), perhaps for want of memory; "
            "what was found is kept: start again to go on, with fewer workers"
        )
    try:
        return {"stamp": stamp(path), "reason": reason} | (
            {"limit": time_limit} if status == -signal.SIGALRM else {}
        )
    except OSError as error:
        return {"reason": error.strerror}


CHUNK = 16  # paths that a worker gets at a time, at most; towards the end ever fewer


def described(
    paths, num_workers, time_limit, *work
):  # module, function and arguments after the path, if it is not `describe`
    "`(path, entry)` of each path, in the order in which they are done, by worker processes"
    waiting, alive = list(reversed(paths)), selectors.DefaultSelector()

    def start():
        worker = Worker(time_limit, *work)
        alive.register(worker.process.stdout, selectors.EVENT_READ, worker)

    try:
        for _ in range(min(num_workers, len(paths))):
            start()
        while alive.get_map():
            for key, _ in alive.select():
                worker = key.data
                answers, ended = worker.answers()
                yield from answers
                if ended or not (worker.paths or waiting):
                    alive.unregister(key.fileobj)
                    status = worker.end(ended)
                    if worker.paths:
                        yield (path := worker.paths.popleft()), epitaph(path, status, time_limit)
                    elif ended:
                        raise DatasetError(
                            f"a worker process cannot start, or was killed (exit status {status})"
                        )
                    waiting += reversed(worker.paths)
                    if waiting:
                        start()
                elif not worker.paths:
                    worker.give(
                        [
                            waiting.pop()
                            for _ in range(min(CHUNK, len(waiting) // (4 * num_workers) + 1))
                        ]
                    )
    finally:
        for key in list(alive.get_map().values()):
            key.data.end()
