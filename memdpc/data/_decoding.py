"""Opening a video file and decoding it, whatever the file turns out to be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from memdpc.base.errors import VideoError

# FFmpeg's messages never reach the terminal: what matters is raised.
av.logging.set_level(None)

MAX_PIXELS = 8192 * 8192  # larger pictures are refused: they would fill the memory

# What FFmpeg plays as video although it is none, by the name of the format it detects.
NOT_VIDEO = {
    "tty": "a text",
    "concat": "a list of files",
    "hls": "a playlist",
    "dash": "a playlist",
    "image2": "a picture",
}


@contextmanager
def open_video(path: str | os.PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file for decoding; gives `(container, stream)`, to be used in a `with` statement.

    Raises `VideoError` where there is nothing to decode (no such file, a pipe, a text, a playlist,
    a picture, sound alone, pictures that are too large), and for what FFmpeg raises inside the
    `with`.
    """
    path = os.fspath(path)
    _check_file(path)
    container = _open_container(path)
    with container:
        try:
            yield container, _video_stream(container, path)
        except MemoryError:
            raise VideoError(path, "asks for more memory than there is") from None
        except FFmpegError as error:
            raise VideoError(path, f"FFmpeg cannot decode it ({error.strerror})") from error


def _check_file(path: str) -> None:
    """A named pipe would be waited for without end, so only regular files are opened."""
    if not os.path.exists(path):
        raise VideoError(path, "no such file")
    if not os.path.isfile(path):
        raise VideoError(path, "is no regular file")
    if not os.path.getsize(path):
        raise VideoError(path, "is empty")


def _open_container(path: str) -> InputContainer:
    try:
        return av.open(
            f"file:{path}",  # a colon in a name is no protocol
            metadata_errors="ignore",  # titles need not be UTF-8
            options={"protocol_whitelist": "file"},  # a playlist leads nowhere else
        )
    except (FFmpegError, OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or error
        reason = f"is no video that FFmpeg can open ({detail})"
        raise VideoError(path, reason) from error


def _video_stream(container: InputContainer, path: str) -> VideoStream:
    """The first stream of moving pictures, set to one decoding thread."""
    name = container.format.name
    still = name.endswith("_pipe")  # png_pipe, jpeg_pipe, ...
    kind = NOT_VIDEO.get("image2" if still else name)
    if kind:
        raise VideoError(path, f"is {kind}, no video")
    stream = _moving_pictures(container)
    if stream is None:
        raise VideoError(path, "holds no video stream")
    if stream.codec_context is None:
        raise VideoError(path, "holds video for which there is no decoder")
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(path, f"pictures of {stream.width}x{stream.height} are too large")
    # A loader has worker processes of its own.
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"
    # The decoder checks as well: pictures may grow in mid-file.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def _moving_pictures(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not the cover picture of a song."""
    cover = Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    return None


def decoded_frames(
    container: InputContainer, stream: VideoStream, complaints: list | None = None
) -> Iterator[VideoFrame]:
    """Every picture from here to the end, in the decoder's output order.

    Packets that do not decode are passed over. `complaints` is a list that takes the errors met and
    a note for each damaged picture. Raises `MemoryError`, FFmpeg's too: the file is not to blame
    for what would then be missing.
    """
    complaints = [] if complaints is None else complaints
    packets = container.demux(stream)
    at_end = False
    while not at_end:
        packet = _next_packet(packets, complaints)
        at_end = packet is None
        for frame in _decode(stream, packet, complaints):
            if frame.is_corrupt:
                # A note, not the frame: those of a long film would fill the memory.
                complaints.append("a damaged picture")
            yield frame


def _next_packet(packets: Iterator[Packet], complaints: list) -> Packet | None:
    """The next packet of a stream; None at its end and where the file breaks off."""
    try:
        return next(packets, None)
    except MemoryError:
        raise
    except (FFmpegError, IndexError) as error:  # IndexError: a stream appears in mid-file
        complaints.append(error)
        return None


def _decode(stream: VideoStream, packet: Packet | None, complaints: list) -> list[VideoFrame]:
    """The pictures that a packet completes; for None those that the decoder still holds."""
    try:
        return stream.decode(packet)
    except EndOfFile:
        return []
    except MemoryError:
        raise
    except FFmpegError as error:
        complaints.append(error)
        return []


# Filters (name, argument) for quarter turns anticlockwise.
QUARTER_TURNS = {
    0: (),
    1: (("transpose", "2"),),
    2: (("hflip", None), ("vflip", None)),
    3: (("transpose", "1"),),
}


def upright(frame: VideoFrame) -> tuple[tuple[str, str | None], ...]:
    """The FFmpeg filters (name, argument) that turn a decoded frame the way it is to be shown.

    A phone held upright stores pictures that lie on their side, with a display matrix that maps a
    stored point (x, y) to the shown one, (ax + cy, bx + dy). Where b and c outweigh a and d the
    axes are swapped; the signs tell which are mirrored. Other angles become the nearest quarter
    turn.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know every kind of side data
        return QUARTER_TURNS[round(frame.rotation / 90) % 4]
    if matrix is None:
        return ()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    if swapped:
        # `transpose` takes the swap and its mirrorings as one number, 0 to 3.
        direction = int(c < 0) + 2 * int(b < 0)
        return (("transpose", str(direction)),)
    filters = []
    if a < 0:
        filters.append(("hflip", None))
    if d < 0:
        filters.append(("vflip", None))
    return tuple(filters)


def shown_size(frame: VideoFrame) -> tuple[int, int]:
    """(width, height) in pixels of a decoded frame after it is turned upright."""
    turned = any(name == "transpose" for name, _ in upright(frame))
    if turned:
        return frame.height, frame.width
    return frame.width, frame.height
