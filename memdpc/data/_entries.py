"""What the index may say of a file, checked when it is read back.

Nothing in a cache is certain: a kill cuts a line short, a disk spoils it, another program writes
into it. What cannot be what `memdpc.data.index` wrote counts as absent, and the file is opened
again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from memdpc.base.errors import printable
from memdpc.data.guard import Entry
from memdpc.data.video import VideoInfo

_MOST_FRAMES = 1 << 25  # six days at 60 frames per second; a longer one is opened each time
_LONGEST_SIDE = 1 << 26  # pixels
_LONGEST_TEXT = 1000  # letters of a reason
_LARGEST = 1 << 63  # of a timestamp
_LONGEST_TIME = 1e30  # seconds: the largest timestamp in the slowest ticks


def parse_entry(text: bytes) -> Entry | None:
    """An entry out of its JSON, its `info` as a `VideoInfo`; None where it cannot be understood."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or ("info" in found) == ("reason" in found):
        return None
    entry: Entry = {}
    for name, check in _PARTS.items():
        if name in found:
            entry[name] = check(found[name])
            if entry[name] is None:
                return None
    return entry


def info_from(values: object) -> VideoInfo | None:
    """The `VideoInfo` of an entry's `info`; None where these cannot be the values of one."""
    if not isinstance(values, Mapping) or values.keys() != _NAMES:
        return None
    info = VideoInfo(**{name: _to_tuples(value) for name, value in values.items()})
    if not all(_FIELDS[name](getattr(info, name)) for name in _NAMES):
        return None
    last = max([place for place, _ in (*info.seek_points, *info.times)], default=0)
    return info if last < info.frames else None


def _to_tuples(value: Any) -> Any:
    """A list of lists as a tuple of tuples: JSON knows only lists."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def _is_int(
    value: object,
    low: int,
    high: int,
) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(
    value: object,
    most: float,
) -> bool:
    """An int or float from 0 to `most`; neither true nor NaN."""
    return type(value) in (int, float) and 0 <= value <= most


def _is_frames(value: object) -> bool:
    return _is_int(value, 1, _MOST_FRAMES)


def _is_side(value: object) -> bool:
    return _is_int(value, 1, _LONGEST_SIDE)


def _is_rate(value: object) -> bool:
    """Frames per second; 0 where they are not known."""
    return _is_number(value, 1e12) and (value == 0 or value > 1e-30)


def _is_codec(value: object) -> bool:
    return isinstance(value, str) and len(value) < 100 and value.isascii() and value.isprintable()


def _is_count(value: object) -> bool:
    return _is_int(value, 0, _LARGEST)


def _is_timestamp(value: object) -> bool:
    return _is_int(value, -_LARGEST, _LARGEST)


def _is_time(value: object) -> bool:
    return _is_number(value, _LONGEST_TIME)


def _is_curve(
    points: object,
    check: Any,
) -> bool:
    """Whether these are pairs of a frame's index, rising, and of what `check` takes, rising too."""
    if not isinstance(points, tuple):
        return False
    before = (-1, -math.inf)
    for point in points:
        if not isinstance(point, tuple) or len(point) != 2:
            return False
        if not _is_int(point[0], before[0] + 1, _MOST_FRAMES) or not check(point[1]):
            return False
        if point[1] <= before[1]:
            return False
        before = point
    return True


def _is_seek_points(value: object) -> bool:
    return _is_curve(value, _is_timestamp)


def _is_times(value: object) -> bool:
    return _is_curve(value, _is_time)


_FIELDS = {
    "frames": _is_frames,
    "width": _is_side,
    "height": _is_side,
    "fps": _is_rate,
    "codec": _is_codec,
    "seek_points": _is_seek_points,
    "damage": _is_count,
    "times": _is_times,
    "stream": _is_count,
}
_NAMES = {field.name for field in fields(VideoInfo)}


def _checked_stamp(value: object) -> list[int] | None:
    """Size and time of change, as `memdpc.base.files.stamp` gives them."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    return value if _is_count(value[0]) and _is_timestamp(value[1]) else None


def _checked_reason(value: object) -> str | None:
    valid = isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT
    return printable(value) if valid else None


def _checked_number(value: object) -> float | None:
    """A limit in seconds, or a PSNR in dB."""
    return value if _is_number(value, 1e9) else None


_PARTS = {
    "stamp": _checked_stamp,
    "info": info_from,
    "reason": _checked_reason,
    "limit": _checked_number,
    "psnr": _checked_number,
}
