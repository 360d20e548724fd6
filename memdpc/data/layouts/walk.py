"""The video files in a folder, at any depth, without what systems and programs leave there.

Jupyter, file managers, desktops and disk servers put folders of their own beside the videos, with
copies, thumbnails or deleted files in them. None of these is the dataset's: they are passed over
without a word, wherever they lie, and become neither videos nor classes. Only the root may be such
a folder itself, and a file that a list names counts wherever it is.
"""

import os
import re
from heapq import heappop, heappush

__all__ = []

_SUFFIXES = """
.avi .mp4 .mkv .webm .mov .m4v .mpg .mpeg .m2v .wmv .asf .flv .3gp .3g2 .ts .mts .m2ts .vob .ogv
.divx
"""
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())  # whether it is a video the decoder will say

UNREADABLE = "is a folder that cannot be read"

# What is not hidden by a dot: made by macOS, Linux, Windows, Synology, QNAP and Python.
_LEFT_BEHIND = """
__macosx|network trash folder|temporary items|lost+found|$recycle.bin
system volume information|thumbs.db|ehthumbs.db|desktop.ini|@eadir|@tmp|@recycle|#recycle|#snapshot
@recently-snapshot|@sharebin|__pycache__
"""
_LITTER = frozenset(re.split(r"[|\n]", _LEFT_BEHIND.strip()))


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or known to be no part of a dataset."""
    return name.startswith(".") or name.casefold() in _LITTER


def holds_litter(path: str) -> bool:
    """Whether a relative path leads through, or to, what `is_litter`."""
    return any(map(is_litter, path.split(os.sep)))


def video_paths(
    root: str | os.PathLike, folder: str = "", missing: list[tuple[str, str]] | None = None
) -> list[str]:
    """Sorted paths, relative to `root`, of the video files in `root/folder`, at any depth.

    Links are followed, since a class's folder may lie on another disk. But a folder is entered once
    only, under its own name if it has one here, and never by a link that lies in it, or the walk
    might not end. `missing` takes (path, reason) of the folders that are not entered.

    Folders are read, and no file is asked for: on a network's disk each question is a message.
    What `is_litter` is passed over.
    """
    missing = [] if missing is None else missing
    start = os.path.realpath(os.path.join(root, folder))
    found: list[str] = []
    entered: set[str] = set()
    queue = [(False, folder)]  # (is it a link?, path): the heap gives links last
    while queue:
        is_link, name = heappop(queue)
        real = os.path.realpath(os.path.join(root, name))
        holder = os.path.realpath(os.path.join(root, os.path.dirname(name)))
        if is_link and (_contains(real, holder) or _contains(real, start)):
            missing.append((name, "is a link to a folder that holds it"))
            continue
        if real in entered:
            missing.append((name, "is a folder that is listed already, under another name"))
            continue
        entered.add(real)
        try:
            videos, folders, links = _read_folder(root, name)
        except OSError as error:
            missing.append((name, f"{UNREADABLE} ({error.strerror})"))
            continue
        found.extend(videos)
        for path in folders:
            heappush(queue, (False, path))
        for path in links:
            heappush(queue, (True, path))
    return sorted(found)


def folder_names(folder: str | os.PathLike) -> list[str]:
    """The sorted names of the folders in a folder, without litter; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _is_kept_folder(entry))
    except OSError:
        return []


def _is_kept_folder(entry: os.DirEntry) -> bool:
    return _is_folder(entry) and not is_litter(entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry of a listing is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _contains(
    folder: str,
    place: str,
) -> bool:
    """Whether the real path `place` is `folder`, or lies in it."""
    return os.path.join(place, "").startswith(os.path.join(folder, ""))


def _read_folder(
    root: str | os.PathLike,
    folder: str,
) -> tuple[list[str], list[str], list[str]]:
    """Videos, folders and links to folders right in `root/folder`, as paths relative to `root`."""
    videos: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            if is_litter(entry.name):
                continue
            path = os.path.join(folder, entry.name)
            if _is_folder(entry):
                kind = links if entry.is_symlink() else folders
                kind.append(path)
            elif os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
                videos.append(path)
    return videos, folders, links
