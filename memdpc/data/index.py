"""What is known of the files of a dataset: each is opened once, and the verdict kept."""

import hashlib
import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from memdpc.base.errors import VideoError, printable
from memdpc.base.files import cache_folder, stamp, turn
from memdpc.data.guard import described
from memdpc.data.video import VideoInfo, probe

logger = logging.getLogger(__name__)


INDEX_VERSION = 2  # to be raised when `probe` comes to another verdict on the same file


def describe(path):
    "The entry of a file: `{'stamp', 'info'}`, `{'stamp', 'reason'}` if it is no video, `{'reason'}` if it cannot be looked at"
    try:
        entry = {"stamp": stamp(path)}
    except FileNotFoundError:
        return {"reason": "no such file"}
    except OSError as error:
        return {"reason": error.strerror}
    try:
        return entry | {"info": vars(probe(path))}
    except VideoError as error:
        return entry | {"reason": error.reason}
    except MemoryError:
        return entry | {"reason": "asks for more memory than there is"}
    except OSError as error:
        return {"reason": error.strerror or str(error)}
    except Exception as error:
        return entry | {
            "reason": f"breaks the decoder ({type(error).__name__}: {printable(error)})"
        }


def tuples(value):
    "Lists to tuples, at any depth: JSON knows only lists"
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def info_from(values):
    "The `VideoInfo` of an entry"
    return VideoInfo(**{name: tuples(value) for name, value in values.items()})


class Index:
    "What is known of the files below `root`, kept in `cache_folder()`; where that cannot be written, it is forgotten at the end"

    def __init__(self, root):
        self.root = Path(root).resolve()
        key = (
            os.fsencode(self.root)
            + repr((INDEX_VERSION, [field.name for field in fields(VideoInfo)])).encode()
        )
        self.file = cache_folder() / "index" / f"{hashlib.sha256(key).hexdigest()[:16]}.jsonl"
        self.lines, self.writable = (
            {},
            True,
        )  # {path: entry}, both as JSON in bytes, between which a line has a tab
        with suppress(OSError), open(self.file, "rb") as lines:  # there may be none yet
            self.lines.update(line.rstrip(b"\n").split(b"\t", 1) for line in lines if b"\t" in line)

    def get(self, path):
        "The entry of `path`; None where there is none, or one cut short by a kill"
        try:
            entry = json.loads(self.lines.get(json.dumps(path).encode(), b""))
        except ValueError:
            return None
        return entry if isinstance(entry, dict) and ("info" in entry or "reason" in entry) else None

    def fresh(self, path, time_limit=0):
        "Whether `path` is known and unchanged, and did not exceed a limit smaller than `time_limit`"
        entry = self.get(path) or {}
        try:
            return (
                entry.get("stamp") == stamp(os.path.join(self.root, path))
                and entry.get("limit", time_limit) >= time_limit
            )
        except OSError:
            return False

    def add(self, path, entry):
        "Note the entry of `path`, in one write"
        name, text = json.dumps(path).encode(), json.dumps(entry).encode()
        self.lines[name] = text
        if not self.writable or "stamp" not in entry:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "ab", buffering=0) as out:
                out.write(b"\n" + name + b"\t" + text)
        except OSError as error:
            self.writable = False
            logger.warning("the index is not kept: %s", printable(error))


TIME_LIMIT = 60.0  # seconds that opening a file may take, and ten more for each megabyte


def examine(root, paths, num_workers=0, progress=True, time_limit=TIME_LIMIT):
    """The `Index` of `root`, in which each of `paths` has an entry: from an earlier time if the file is unchanged, else by opening it.

    Files are opened by `num_workers` guarded processes; with 0 by this process, which then has no guard against files that crash a decoder
    or take for ever. A file that took too long is tried again when it changes, or when the limit is larger.
    """
    index, paths = Index(root), dict.fromkeys(paths)
    if all(index.fresh(path, time_limit) for path in paths):
        return index
    with turn(index.file):
        index = Index(root)  # another process may have added to it
        unknown = [
            os.path.join(index.root, path) for path in paths if not index.fresh(path, time_limit)
        ]
        found = (
            described(unknown, num_workers, time_limit)
            if num_workers
            else ((path, describe(path)) for path in unknown)
        )
        quiet, skip = not (progress and unknown), len(os.path.join(index.root, ""))
        for path, entry in tqdm(
            found,
            "opening videos",
            len(unknown),
            disable=quiet,
            ascii=True,
            mininterval=1,
            file=sys.stderr,
        ):
            index.add(path[skip:], entry)
    return index
