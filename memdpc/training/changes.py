"""What may change between a run's stop and its resume, and what may not.

A run keeps a fingerprint of its videos. A dataset that was moved or copied, or whose path is
spelled otherwise, is the same dataset; one in which a video is gone, new or another is not: a step
would see other clips, and an epoch would have another length.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from memdpc.base.config import MAY_DIFFER, config_differences
from memdpc.base.errors import ConfigError, TrainingError
from memdpc.base.files import LARGEST_TEXT, read_json, read_plain
from memdpc.data.videos import VideoList

_LENGTH = ("epochs", "max_steps")
_PLACES = ("root", "init", "checkpoint")  # compared as places, however they are spelled


# ---- settings


class Changes(NamedTuple):
    """How a config differs from the one that a run was begun with."""

    refused: list[str]  # `field: saved -> now`
    moved: str = ""  # the same for the dataset's folder: its videos tell whether that is refused
    longer: str = ""  # in one line, how the run becomes longer


def changes_since(config: Any, file: Path) -> Changes:
    """What changed since `file`, a run's config.json, was written; `ConfigError` where damaged."""
    saved = read_json(file, ConfigError(f"{file}: damaged; choose another out"))
    now = asdict(config)
    refused = config_differences(config, file, (*MAY_DIFFER, *_LENGTH, *_PLACES))
    differ = [name for name in _LENGTH if name in now and saved.get(name) != now[name]]
    lengths = [f"{name}: {saved.get(name)!s:.80} -> {now[name]}" for name in differ]
    longer = ""
    if all(_is_raised(saved.get(name), now[name]) for name in differ):
        longer = _about_longer(lengths, now)
    else:
        refused += [f"{length} (a run is made longer, not shorter)" for length in lengths]
    places = {}
    for name in _PLACES:
        then = saved.get(name, "")
        here = now.get(name, "")
        places[name] = "" if _same_place(then, here) else f"{name}: {then!s:.200} -> {here}"
    refused += [places[name] for name in ("init", "checkpoint") if places[name]]
    return Changes(refused, places["root"], longer)


def _is_raised(then: Any, now: Any) -> bool:
    """Whether a limit was raised; None is no limit."""
    known = type(then) is int or then is None
    return known and _limit(now) > _limit(then)


def _limit(value: int | None) -> float:
    return math.inf if value is None else value


def _about_longer(lengths: list[str], settings: Mapping[str, Any]) -> str:
    """The line for a run that is made longer, with what its schedule then is; '' without change."""
    if not lengths:
        return ""
    if settings.get("cosine"):
        then = "its cosine is stretched over the new length, which a run of one piece would not see"
    elif settings.get("milestones"):
        then = "its milestones stay where they are, as in a run of this length from the start"
    else:
        then = "its schedule is that of a run of this length from the start"
    return f"made longer ({'; '.join(lengths)}): {then}"


def _same_place(first: Any, second: Any) -> bool:
    """Whether two paths, however they are spelled, lead to the same place."""
    if first == second:
        return True
    if not (isinstance(first, str) and isinstance(second, str) and first and second):
        return False
    try:
        return _resolved(first) == _resolved(second)
    except ValueError:  # a path with a zero byte in it
        return False


def _resolved(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


# ---- videos


def fingerprint(parts: Mapping[str, VideoList]) -> bytes:
    """A line of JSON for each video of each part: part, path, bytes, frames, label, times.

    The path is that within the dataset. Neither the dataset's place nor any file's time is in it.
    """
    lines = []
    for part, videos in parts.items():
        for video in videos.videos:
            size = _bytes_of(videos.root / video.path)
            row = [part, video.path, size, video.info.frames, video.label, *video.transitions]
            lines.append(json.dumps(row) + "\n")
    return "".join(lines).encode()


def _bytes_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def video_changes(file: Path, now: bytes) -> str:
    """What differs between the fingerprint in `file` and `now`, counted and named; or ''.

    `3 training videos gone (a.mp4, ...), 1 added (b.mp4)`. `TrainingError` where it is damaged.
    """
    try:
        before = read_plain(file, LARGEST_TEXT)
        if before == now:
            return ""
        then = _parts_of(before)
    except (ValueError, TypeError, RecursionError) as error:
        raise TrainingError(f"{file}: damaged; without this file the run can go on") from error
    here = _parts_of(now)
    parts = list(dict.fromkeys([*then, *here]))
    found = [_changes_of(part, then.get(part, {}), here.get(part, {})) for part in parts]
    return ", ".join(filter(None, found)) or "the same videos in another order"


def _parts_of(lines: bytes) -> dict[str, dict[str, list[Any]]]:
    """`{part: {path: [bytes, frames, label, ...]}}`; `ValueError` for anything else."""
    parts: dict[str, dict[str, list[Any]]] = {}
    for line in lines.splitlines():
        part, path, *rest = json.loads(line)
        if not (isinstance(part, str) and isinstance(path, str) and len(rest) > 2):
            raise ValueError("no line of a fingerprint")
        parts.setdefault(part, {})[path] = rest
    return parts


def _changes_of(part: str, then: Mapping[str, list], now: Mapping[str, list]) -> str:
    """The changes of one part in words."""
    both = [path for path in then if path in now]
    kinds = {
        "gone": [path for path in then if path not in now],
        "added": [path for path in now if path not in then],
        "replaced": [path for path in both if then[path][:2] != now[path][:2]],
        "labelled otherwise": [path for path in both if then[path][2:] != now[path][2:]],
    }
    words = []
    for kind, paths in kinds.items():
        if paths:
            noun = "" if words else f" {part} video{'s' * (len(paths) > 1)}"
            more = ", ..." if len(paths) > 1 else ""
            words.append(f"{len(paths)}{noun} {kind} ({paths[0]:.200}{more})")
    return ", ".join(words)


__all__ = []
