"""When frames are shown: timestamps, and the few of them that are enough for an uneven rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from av.video.stream import VideoStream


def strictly_rising(timestamps: Sequence[Any]) -> bool:
    """Does each timestamp exist and exceed the one before?"""
    if None in timestamps:
        return False
    return all(late > early for early, late in zip(timestamps, timestamps[1:]))


def frame_rate(stream: VideoStream, timestamps: Sequence[Any]) -> float:
    """Frames per second: by timestamps that rise strictly, else by the header; 0 if unknown."""
    if len(timestamps) > 1 and strictly_rising(timestamps):
        seconds = (timestamps[-1] - timestamps[0]) * (stream.time_base or 1)
        return float((len(timestamps) - 1) / seconds)
    return float(stream.average_rate or stream.guessed_rate or 0)


def knots(times: Sequence[float], tolerance: float) -> tuple[tuple[int, float], ...]:
    """`((index, time), ...)`: straight lines between them pass all of the rising `times`.

    No time is missed by more than `tolerance`. From a knot, a cone of slopes passes all frames seen
    so far; the first frame outside of it makes the one before it the next knot.
    """
    found = [0]
    lowest = -np.inf  # slopes from the last knot
    highest = np.inf
    for index in range(1, len(times)):
        rise = times[index] - times[found[-1]]
        run = index - found[-1]
        if not lowest <= rise / run <= highest:
            found.append(index - 1)
            lowest = -np.inf
            highest = np.inf
            rise = times[index] - times[index - 1]
            run = 1
        lowest = max(lowest, (rise - tolerance) / run)
        highest = min(highest, (rise + tolerance) / run)
    found.append(len(times) - 1)
    return tuple((index, times[index]) for index in found)


def uneven_times(
    timestamps: Sequence[Any], fps: float, tick: float
) -> tuple[tuple[int, float], ...]:
    """The knots (index, seconds from the first frame on) of a video of uneven rate; () if even.

    `timestamps` count ticks of `tick` seconds. Frames may be off by a tenth of a frame or one tick;
    timestamps that do not rise tell nothing, so the rate counts as even.
    """
    if len(timestamps) < 2 or not strictly_rising(timestamps):
        return ()
    times = [(timestamp - timestamps[0]) * tick for timestamp in timestamps]
    tolerance = max(0.1 / fps, tick)
    if all(abs(time - index / fps) <= tolerance for index, time in enumerate(times)):
        return ()
    return knots(times, tolerance)
