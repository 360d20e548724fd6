"""What is known of the files of a dataset: each is opened once, and what was found is kept.

A file's header is only a promise: Matroska has no number of frames at all, and an AVI that breaks
off half-way still announces all of its pictures. Whether a file can be read, and how many frames it
has, is known once it was decoded (`memdpc.data.video.probe`), which takes long for a large dataset.
So what was found is written down in the index, a line for each file. A line counts as long as the
file keeps its size and its time of change; `memdpc scan --again True` opens all once more. What the
system around a file does wrong is not written down.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from memdpc.base.errors import VideoError, printable
from memdpc.base.files import append_bytes, cache_folder, stamp, turn
from memdpc.base.terminal import progress_bar
from memdpc.data._decoding import check_readable
from memdpc.data._entries import parse_entry
from memdpc.data.guard import Entry, run_guarded
from memdpc.data.video import VideoInfo, probe

logger = logging.getLogger(__name__)

INDEX_VERSION = 2  # to be raised when `probe` finds something else in the same file
TIME_LIMIT = 60.0  # seconds that opening a file may take, and ten more for each megabyte


def describe(path: str | os.PathLike) -> Entry:
    """Open a file and return its entry: all that a later run needs to know of it.

    `{"stamp", "info"}` for a video, `{"stamp", "reason"}` for a file that is none. `{"reason"}`
    where the file may not be to blame: that is not remembered. Whatever a hostile file does to the
    decoder, and be it an error that nobody thought of, ends as a reason.
    """
    try:
        before = stamp(path)
        check_readable(path)
        return {"stamp": before} | _contents(path)
    except MemoryError:
        return {"reason": "asks for more memory than there is"}
    except FileNotFoundError:
        return {"reason": "no such file"}
    except OSError as error:
        return {"reason": f"cannot be read ({error.strerror or printable(error)})"}
    except Exception as error:
        return {"reason": f"breaks the decoder ({type(error).__name__}: {printable(error)})"}


def _contents(path: str | os.PathLike) -> Entry:
    """What a file that can be read holds, or what is wrong with it."""
    try:
        return {"info": vars(probe(path))}
    except VideoError as error:
        return {"reason": error.reason}


class Index:
    """What is known of the files in `root`, kept in `cache_folder()`.

    Where that cannot be written, all is forgotten at the end. Each line is appended in one write as
    soon as it is known, after a line end: a line that a kill cut short spoils itself, and nothing
    that follows. In memory lines stay bytes, and are taken apart when they are asked for: as dicts
    they would take about five times as much.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root).resolve()
        names = [field.name for field in fields(VideoInfo)]
        key = os.fsencode(self.root) + repr((INDEX_VERSION, names)).encode()
        digest = hashlib.sha256(key).hexdigest()[:16]
        self.file = cache_folder() / "index" / f"{digest}.jsonl"
        self.lines: dict[
            bytes, bytes
        ] = {}  # {path: entry} as JSON; in the file, with a tab between
        self._writable = True
        if self.file.is_file():  # neither none yet nor a pipe, which would be waited for
            with suppress(OSError):
                self._read()

    def _read(self) -> None:
        with open(self.file, "rb") as lines:
            for line in lines:
                name, tab, text = line.rstrip(b"\n").partition(b"\t")
                if tab:
                    self.lines[name] = text

    def get(self, path: str) -> Entry | None:
        """The entry of `path`, its `info` a `VideoInfo`; None where none can be understood."""
        return parse_entry(self.lines.get(json.dumps(path).encode(), b""))

    def fresh(
        self,
        path: str,
        time_limit: float = 0,
    ) -> bool:
        """Whether `path` is known and unchanged, and did not exceed a limit below `time_limit`."""
        entry = self.get(path)
        if entry is None:
            return False
        try:
            unchanged = entry.get("stamp") == stamp(os.path.join(self.root, path))
        except OSError:
            return False
        return unchanged and entry.get("limit", time_limit) >= time_limit

    def add(
        self,
        path: str,
        entry: Entry,
    ) -> None:
        """Note the entry of `path`, in one write; one without a stamp is soon forgotten."""
        name = json.dumps(path).encode()
        text = json.dumps(entry).encode()
        self.lines[name] = text
        if not self._writable or "stamp" not in entry:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            append_bytes(self.file, b"\n" + name + b"\t" + text)
        except OSError as error:
            self._writable = False
            logger.warning("the index is not kept: %s", printable(error))


def examine(
    root: str | os.PathLike,
    paths: Iterable[str],
    num_workers: int = 0,
    progress: bool = True,
    time_limit: float = TIME_LIMIT,
    again: bool = False,
) -> Index:
    """The `Index` of `root`, in which each of `paths` has an entry; with `again` a new one.

    An entry of an earlier time is used if the file is unchanged, else the file is opened, by
    `num_workers` guarded processes; with 0 by this process, which then has no guard against files
    that crash a decoder or take for ever. A file that took too long is tried again when it changes,
    or when the limit is larger.

    Several processes may want the same dataset at once, those of a run on many GPUs or two runs.
    The first opens the files; the others wait, and read what it found.
    """
    index = Index(root)
    wanted = list(dict.fromkeys(paths))
    if not again and all(index.fresh(path, time_limit) for path in wanted):
        return index
    with turn(index.file.with_suffix(".lock")):
        index = Index(root)  # another process may have added to it
        unknown = [path for path in wanted if again or not index.fresh(path, time_limit)]
        found = _open_files(index.root, unknown, num_workers, time_limit)
        shown = progress and len(unknown) > 0
        bar = progress_bar(found, "opening videos", len(unknown), shown)
        for path, entry in bar:
            index.add(path, entry)
    return index


def _open_files(
    root: Path, paths: list[str], num_workers: int, time_limit: float
) -> Iterator[tuple[str, Entry]]:
    """`(path, entry)` of each path in `root`, as they are done."""
    if not num_workers:
        for path in paths:
            yield path, describe(os.path.join(root, path))
        return
    top = os.path.join(root, "")
    files = [top + path for path in paths]
    for file, entry in run_guarded(describe, files, num_workers, time_limit):
        yield file.removeprefix(top), entry


__all__ = []
