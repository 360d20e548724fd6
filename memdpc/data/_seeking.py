"""Seeking to keyframes, and the proof that a seek brings the pictures that decoding would.

A keyframe promises that nothing after it depends on what came before, but that is the encoder's
promise; and the container must lead to it, which the timestamps of a broadcast stream (.ts) do not.
So every keyframe is tried once: seek there, decode two pictures, compare their check sums with
those of decoding from the start. Where they agree, the keyframe becomes a seek point.
"""

import os
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from memdpc.data._decoding import decoded_frames, open_video

SEEK_GAP = 8  # seek points lie at least so many frames apart
PROOF = 2  # pictures compared at each keyframe

Mark = tuple[int, list[int]]  # a keyframe's timestamp, check sums of the pictures from it on


class SeekMissed(Exception):
    """A seek did not arrive at the keyframe that it aimed at."""


def frames_from(container: InputContainer, stream: VideoStream, pts: int) -> Iterator[VideoFrame]:
    """The pictures from the keyframe at timestamp `pts` on, by seeking.

    Pictures shown before the keyframe may follow it in the file (B-frames of an open group of
    pictures): they build on what was skipped and are thrown away. Raises `SeekMissed` where the
    file does not lead to the keyframe.
    """
    try:
        container.seek(pts, stream=stream)
    except FFmpegError:
        raise SeekMissed from None
    frames = decoded_frames(container, stream)
    for frame in frames:
        if frame.pts == pts:
            yield frame
            break
        if frame.pts is None or frame.pts > pts:
            raise SeekMissed
    else:
        raise SeekMissed
    yield from frames


def check_sum(picture: np.ndarray) -> int:
    """One number for an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(picture).data)


class Keyframes:
    """The keyframes met while a file is decoded from its start, with check sums of what follows.

    `marks` maps a keyframe's index to `(timestamp, check sums)`.
    """

    def __init__(self) -> None:
        self.marks: dict[int, Mark] = {}
        self._last = 0

    def watch(self, index: int, frame: VideoFrame, convert: Callable) -> None:
        """Take note of decoded frame `index`; `convert` makes a picture of a frame."""
        far_enough = index >= self._last + SEEK_GAP
        if frame.key_frame and far_enough and frame.pts is not None:
            self._last = index
            self.marks[index] = (frame.pts, [])
        if self.marks and index < self._last + PROOF:
            sums = self.marks[self._last][1]
            sums.append(check_sum(convert(frame)))


def proven_seek_points(
    path: str | os.PathLike, marks: dict[int, Mark], convert: Callable
) -> Iterator[tuple[int, int]]:
    """Those `(index, timestamp)` of `marks` where a seek brings pictures of the same check sums."""
    with open_video(path) as (container, stream):
        for index, (pts, sums) in marks.items():
            try:
                frames = frames_from(container, stream, pts)
                # The numbers come first, so that no picture is decoded for nothing.
                found = [check_sum(convert(frame)) for _, frame in zip(sums, frames)]
            except SeekMissed:
                continue
            if found == sums:
                yield index, pts
