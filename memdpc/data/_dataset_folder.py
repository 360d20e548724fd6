"""Folders of made datasets: claimed by a manifest, completed by any call, never mixed up."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path

from memdpc.base.errors import ConfigError, MachineError
from memdpc.base.files import is_part, read_json, write_json
from memdpc.base.limits import signals_held_back, starting_processes
from memdpc.data.guard import plain_children

MANIFEST = "shapes.json"  # says which dataset a folder holds
FEW = 32  # files for which no processes are started
_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def claim(out: Path, manifest: dict) -> None:
    """Take the folder `out` for the dataset of `manifest`: it is new, empty, or holds that dataset.

    Anything else in it is a `ConfigError`, and stays as it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / MANIFEST
    if path.is_file():
        known = "holds another dataset of shapes, or a damaged one"
        unreadable = ConfigError(f"{out}: {known}; give a new folder")
        found = read_json(path, unreadable)
        if found != manifest:
            raise ConfigError(
                f"{out}: holds another dataset of shapes ({found}), not {manifest}; "
                "give a new folder"
            )
    elif any(not is_part(inner.name) for inner in out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no dataset of shapes; give a new folder")
    else:
        write_json(path, manifest)


def write_missing(write: Callable, tasks: Sequence[tuple], num_workers: int) -> None:
    """Call `write(task)` for each task whose file, `task[0]`, is not there yet.

    By `num_workers` processes where there are many; `write` must be a function of a module.
    """
    missing = [task for task in tasks if not os.path.exists(task[0])]
    if num_workers < 2 or len(missing) < FEW:
        for task in missing:
            write(task)
        return
    with plain_children():
        pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _end_with_parent)
        try:
            with starting_processes(num_workers), signals_held_back(_ENDING):
                done = pool.map(write, missing)
            list(done)  # an error of a process is raised here
        except BrokenProcessPool as error:
            reason = "a process that writes videos died, perhaps because memory ran out"
            advice = "what is written is kept: start again to go on, with fewer num_workers"
            raise MachineError(f"{reason}; {advice}") from error
        finally:
            # A signal is heard when all tasks are handed out: none of them shall be waited for.
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end when its parent is gone, however that ended; Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
