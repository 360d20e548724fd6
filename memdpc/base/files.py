"""Files written whole or not at all, locks, and small text and JSON files read with care."""

import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memdpc.base.errors import ConfigError, DatasetError, MemdpcError, TrainingError

logger = logging.getLogger(__name__)

PART = ".part"  # the suffix of what is being written
LARGEST_JSON = 16 * 2**20  # bytes; what Python makes of it takes some thirty times as much
DEEPEST_JSON = 50  # levels
LARGEST_TEXT = 2**31  # bytes, of lists and tables that grow with a dataset or a run


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


# What the system answers where it cannot read, whatever a file holds.
_NAMES = ("EACCES", "EPERM", "EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT")
_CANNOT_READ = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}


def is_of_machine(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, is the system's fault and no file's damage."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _CANNOT_READ


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


def output_folder(out: str | os.PathLike, *files: str) -> Path:
    """The folder `out`, where each of `files` could be written now; nothing is left behind.

    Every job asks before it begins to work. Raises `ConfigError` where no `out` is given, and an
    `OSError` that names what is in the way: a file, a link to nowhere, a place that is read-only.
    """
    if not os.fspath(out):
        raise ConfigError("no out: name the folder to write to")
    for file in files:
        path = Path(out, file)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        place = path.parent
        while not os.path.lexists(place):
            place = place.parent
        try:
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            error.filename = str(place)
            raise
    return Path(out)


def append_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Append to a file in one write, never through a link; an `OSError` names the file."""
    try:
        with open(path, "ab", opener=_open_itself) as out:
            out.write(data)
    except OSError as error:
        error.filename = str(path)  # a full disk names none
        raise


def _open_itself(path: str, flags: int) -> int:
    """What `open` does, but a link is an error, and so is a pipe that would be waited for."""
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | extra, 0o666)


def write_failure(path: str | os.PathLike, error: BaseException) -> str:
    """One line for `path` that cannot be written: the reason, and how much space is left."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    free = shutil.disk_usage(Path(path).parent).free
    return f"{path} cannot be written ({reason}; {free / 1e6:.1f} MB are free)"


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """`with atomic_write(path) as part:` write `part`, a file or a folder; it becomes `path`.

    Whenever the process is killed, the file `path` is the old one or the new one, never half of it;
    an old folder is gone for a moment before the new one is there. After an error the old one is
    still there. The error names `path`: an `OSError`, or a `TrainingError` where the disk is full
    and the library that wrote says so without an error number.
    """
    path = Path(path)
    try:
        with work_folder(path.parent) as place:
            part = place / path.name
            yield part
            if part.is_dir():
                for inner in part.iterdir():
                    fsync_path(inner)
            fsync_path(part)
            _move_to(path, part)
            fsync_path(path.parent)
    except OSError as error:
        if error.filename is None or PART in str(error.filename):
            if not error.errno:
                raise TrainingError(write_failure(path, error)) from error
            error.filename = str(path)
        raise


def _move_to(path: Path, part: Path) -> None:
    """Give `part` the name `path`; an old folder, which no rename replaces, is moved away first."""
    if not (part.is_dir() and path.is_dir()):
        os.replace(part, path)
        return
    old = part.with_name(f"{part.name}.old")
    os.replace(path, old)
    try:
        os.replace(part, path)
    except OSError:
        os.replace(old, path)
        raise


# What file systems answer that know no locks.
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_REST = 3600  # seconds after which a work folder counts as left, where nothing can be locked


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder in `folder` for what is not yet whole: this writer's own, gone afterwards.

    Nobody can have placed a link in it, and two processes never share one. A lock beside it is held
    while its writer lives; those of killed writers are removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_parts(folder)
    place = part_name(folder)
    lock = _lock_of(place)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    try:
        place.mkdir(mode=0o700)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        _give_back(lock)


def clear_parts(folder: Path) -> None:
    """Remove what killed processes left half-written; what a living one is writing stays.

    Where files cannot be locked, what has rested for an hour counts as left.
    """
    for left in folder.glob(f".*{PART}"):
        if is_part(left.name):  # a downloader may write such files as well
            _remove_left(left)


def part_name(folder: Path) -> Path:
    """A hidden name in `folder` that nobody has: `clear_parts` removes what is left under it."""
    return folder / f".{secrets.token_hex(8)}{PART}"


def is_part(name: str) -> bool:
    """Whether a work folder, or its lock, has such a name."""
    return re.fullmatch(rf"\.[0-9a-f]{{16}}(\.lock)?{re.escape(PART)}", name) is not None


def _lock_of(place: Path) -> FileLock:
    token = place.name.split(".")[1]
    lock = place.with_name(f".{token}.lock{PART}")  # so that it is found, too, if left
    return FileLock(lock, thread_local=False, fallback_to_soft=False)


def _give_back(lock: FileLock) -> None:
    """Remove a work folder's lock. Who waits for it notices, and makes the file anew."""
    with suppress(OSError):  # Windows removes no open file
        os.unlink(lock.lock_file)
    lock.release()


def _remove_left(place: Path) -> None:
    """Remove a work folder if its writer is dead: its lock is free."""
    lock = _lock_of(place)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE or not _has_rested(place):
            return
    with suppress(OSError):
        remove(place)
    _give_back(lock)


def _has_rested(place: Path) -> bool:
    with suppress(OSError):
        return time.time() - os.lstat(place).st_mtime > _REST
    return False


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path) as part:
        part.write_bytes(data)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=2).encode() + b"\n")


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_plain(path: str | os.PathLike, most: float = math.inf) -> bytes:
    """The content of a plain file.

    `ValueError` for a folder, and for a pipe or a device, where reading might wait for ever; and
    for more than `most` bytes, before any is read.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("no plain file")
    if found.st_size > most:
        raise ValueError(f"larger than {most / 2**20:.0f} MB")
    return Path(path).read_bytes()


def read_json(
    path: str | os.PathLike, damaged: MemdpcError, most: int = LARGEST_JSON
) -> dict[str, Any]:
    """The dict that a JSON file of `most` bytes holds; `damaged` is raised for anything else."""
    try:
        found = json.loads(read_plain(path, most).decode())
    except (ValueError, RecursionError, FileNotFoundError):
        found = None
    if not isinstance(found, dict) or not _is_flat(found):
        raise damaged
    return found


def _is_flat(value: Any) -> bool:
    """Whether what a JSON file holds may be walked through by functions that call themselves."""
    level = [value]
    for _ in range(DEEPEST_JSON):
        parts = [part.values() if isinstance(part, dict) else part for part in level]
        level = [part for inner in parts for part in inner if isinstance(part, (dict, list))]
        if not level:
            return True
    return False


def read_text(path: str | os.PathLike) -> str:
    """A text file in UTF-8, with or without a byte order mark; raises `DatasetError`."""
    try:
        text = read_plain(path, LARGEST_TEXT).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file") from error
    except OSError as error:
        raise DatasetError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        text = "\0"
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    if "\0" in text:
        raise DatasetError(f"{path}: not a text file in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of a small text file, stripped, without the empty ones."""
    return [line for line in map(str.strip, read_text(path).split("\n")) if line]


def checkpoints_in(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints of the run in `folder`, by step; a user's copies beside them do not count."""
    found = Path(folder, "checkpoints").glob("step-*")
    named = [path for path in found if path.name[5:].isdecimal() and path.is_dir()]
    return sorted(named, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


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
