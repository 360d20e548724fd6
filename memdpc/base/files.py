"""Files written whole or not at all, locks, and small text and JSON files read with care."""

import errno
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memdpc.base.errors import ConfigError, DatasetError, MemdpcError, TrainingError

logger = logging.getLogger(__name__)

PART = ".part"  # the suffix of what is being written


def expand_home(path: str | os.PathLike) -> str:
    """`~/a` as the user's home folder has it, `~name/a` as that of another; other paths stay.

    Raises `ConfigError` where nobody knows that folder: a folder named `~` would surprise.
    """
    expanded = os.path.expanduser(os.fspath(path))
    if expanded.startswith("~"):
        raise ConfigError(f"{path}: there is no such home folder; write the path out, or ./{path}")
    return expanded


def cache_folder() -> Path:
    """Where results are kept between runs: $MEMDPC_CACHE, or ~/.cache/memdpc.

    Raises `ConfigError` for a user without a home folder, as in some containers.
    """
    named = os.environ.get("MEMDPC_CACHE")
    if named:
        return Path(expand_home(named))
    try:
        return Path.home() / ".cache" / "memdpc"
    except RuntimeError:
        advice = "name a folder in the environment variable MEMDPC_CACHE"
        raise ConfigError(f"this user has no home folder for the index: {advice}") from None


def stamp(path: str | os.PathLike) -> list[int]:
    """What tells a changed file from an unchanged one: size (bytes) and time of change (ns)."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def fsync_path(path: str | os.PathLike) -> None:
    """Have the disk keep a file, or the names in a folder, through a power cut."""
    if os.name == "nt":
        return  # Windows syncs neither folders nor files that are open for reading
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folder
            raise
    finally:
        os.close(handle)


def write_failure(path: str | os.PathLike, error: BaseException) -> str:
    """One line for `path` that cannot be written: the reason, and how much space is left."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    free = shutil.disk_usage(Path(path).parent).free
    return f"{path} cannot be written ({reason}; {free / 1e6:.1f} MB are free)"


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """`with atomic_write(path) as part:` write `part`, a file or a folder; it becomes `path`.

    Whenever the process is killed, `path` is the old one or the new one, never half of it. After an
    error the old one is still there. The error names `path`: an `OSError`, or a `TrainingError`
    where the disk is full and the library that wrote says so without an error number.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two processes may write one file, and nobody can have placed a link there.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        yield part
        if part.is_dir():
            for inner in part.iterdir():
                fsync_path(inner)
        fsync_path(part)
        os.replace(part, path)
        fsync_path(path.parent)
    except BaseException as error:
        _remove(part)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            if not error.errno:
                raise TrainingError(write_failure(path, error)) from error
            error.filename = str(path)
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path) as part:
        part.write_bytes(data)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=2).encode() + b"\n")


def clear_parts(folder: Path) -> None:
    """Remove what killed processes left half-written; only for the holder of the folder's lock."""
    for part in folder.glob(f".*{PART}"):
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: str | os.PathLike, damaged: MemdpcError) -> dict[str, Any]:
    """The dict that a JSON file holds; `damaged` is raised where it holds anything else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise damaged
    return found


def read_text(path: str | os.PathLike) -> str:
    """A small text file in UTF-8, with or without a byte order mark; raises `DatasetError`."""
    if not os.path.isfile(path):  # nor a pipe, where reading might wait for ever
        raise DatasetError(f"{path}: no such file")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DatasetError(f"{path}: not a text file in UTF-8")
    return text


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of a small text file, stripped, without the empty ones."""
    return [line for line in map(str.strip, read_text(path).split("\n")) if line]


def hold_folder(folder: Path) -> FileLock:
    """Keep other processes from a folder until the returned lock is released or the process ends.

    However the process ends, the system gives the lock back, and processes that it forked do not
    keep it. The same process may hold a folder again: a notebook's cell is run twice. Raises
    `ConfigError` where another process is at work there. Where files cannot be locked, nothing is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(
        folder / ".lock",
        blocking=False,
        is_singleton=True,
        thread_local=False,
        fallback_to_soft=False,
    )
    try:
        if not lock.is_locked:
            lock.acquire()
    except Timeout:
        raise ConfigError(f"{folder}: another process is at work in this folder") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return lock


# What file systems answer that know no locks.
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """While this lasts, other processes that come here with the same `path` wait.

    The lock lies beside `path` and is given back with the process, however that ends. Where
    nothing can be written or locked, nobody waits.
    """
    lock = FileLock(path.with_suffix(".lock"), fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("another process is at work on the same files: waiting for what it finds")
        lock.acquire()
    except OSError:
        pass  # a cache that cannot be written costs time and nothing else
    try:
        yield
    finally:
        lock.release()


__all__ = []
