"""The video files in a folder, at any depth."""

import os
from heapq import heappop, heappush

__all__ = []

_SUFFIXES = """
.avi .mp4 .mkv .webm .mov .m4v .mpg .mpeg .m2v .wmv .asf .flv .3gp .3g2 .ts .mts .m2ts .vob .ogv
.divx
"""
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())  # whether it is a video the decoder will say


def video_paths(
    root: str | os.PathLike, folder: str = "", missing: list[tuple[str, str]] | None = None
) -> list[str]:
    """Sorted paths, relative to `root`, of the video files in `root/folder`, at any depth.

    Links are followed, since a class's folder may lie on another disk. But a folder is entered once
    only, under its own name if it has one here, and never by a link that lies in it, or the walk
    might not end. `missing` takes (path, reason) of the folders that are not entered.

    Folders are read, and no file is asked for: on a network's disk each question is a message.
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
            missing.append((name, f"is a folder that cannot be read ({error.strerror})"))
            continue
        found.extend(videos)
        for path in folders:
            heappush(queue, (False, path))
        for path in links:
            heappush(queue, (True, path))
    return sorted(found)


def is_folder(entry: os.DirEntry) -> bool:
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
            path = os.path.join(folder, entry.name)
            if is_folder(entry):
                kind = links if entry.is_symlink() else folders
                kind.append(path)
            elif os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
                videos.append(path)
    return videos, folders, links
