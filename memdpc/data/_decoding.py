"""Opening a video file and decoding it, whatever the file turns out to be.

What is wrong with a file is a `VideoError`. What is wrong with the machine is not the file's fault
and stays an `OSError`: permission denied, too many open files, a failing disk, too little memory.
FFmpeg's error numbers cannot tell the two apart: a disk that fails under an MP4's header is
"invalid data" to it, a header that lies about its sizes is "cannot allocate memory". So wherever
FFmpeg gives up, the system is asked.
"""

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager

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
READ_AGAIN = 1 << 30  # bytes of a file that are read, at most, to see whether its disk works
SPARE_MEMORY = 1 << 30  # bytes; a machine that has them has enough for a film in 4K

# What FFmpeg plays as video although it is none, by the name of the format it detects.
NOT_VIDEO = {
    "tty": "a text",
    "concat": "a list of files",
    "hls": "a playlist",
    "dash": "a playlist",
    "image2": "a picture",
}


# Video streams that go along with a film; they are read where there is no other.
BESIDE_A_FILM = (
    Disposition.still_image
    | Disposition.timed_thumbnails
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.dependent
)
# Codecs of covers and thumbnails: `ffmpeg -i film -i cover -map 0 -map 1` makes a video stream of
# one picture, and Matroska does not tell how many there are.
OF_PICTURES = ("bmp", "mjpeg", "png", "tiff", "webp")


@contextmanager
def open_video(
    path: str | os.PathLike, index: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file for decoding; gives `(container, stream)`, to be used in a `with` statement.

    Of several video streams it is the film (`best_stream`), or the one at `index`.

    Raises `VideoError` where there is nothing to decode (no such file, a pipe, a text, a playlist,
    a picture, sound alone, pictures that are too large), and for what FFmpeg raises inside the
    `with`; `OSError` where the machine is at fault.
    """
    path = os.fspath(path)
    _check_file(path)
    with _faults_of(path, "is no video that FFmpeg can open"):
        container = _open_container(path)
    with container, _faults_of(path, "FFmpeg cannot decode it"):
        yield container, _video_stream(container, path, index)


def _check_file(path: str) -> None:
    """A named pipe would be waited for without end, so only regular files are opened."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero in the name
        raise VideoError(path, "no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "is no regular file")
    if not status.st_size:
        raise VideoError(path, "is empty")


@contextmanager
def _faults_of(path: str, what: str) -> Iterator[None]:
    """FFmpeg's errors become a `VideoError`, or an `OSError` where the machine is at fault."""
    try:
        yield
    except MemoryError:
        _check_memory(path)
        raise VideoError(path, "asks for more memory than there is") from None
    except FFmpegError as error:
        check_readable(path, READ_AGAIN)
        raise VideoError(path, f"{what} ({error.strerror})") from error


def check_readable(path: str | os.PathLike, most: float = math.inf) -> None:
    """Raise `OSError` where the system cannot read a file, or at least `most` bytes of it.

    A decoder takes a disk's error for damage, or for the end of the file. What is no regular file
    is left alone: a pipe would be waited for.
    """
    if not os.path.isfile(path):
        return
    size = 0
    try:
        with open(path, "rb", buffering=0) as file:
            while size < most:
                read = file.read(1 << 20)
                if not read:
                    return
                size += len(read)
    except OSError as error:
        # An error in reading does not name the file.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _check_memory(path: str) -> None:
    """Raise `OSError` where there is too little memory for any video."""
    try:
        np.empty(SPARE_MEMORY, np.uint8)  # promised, and never touched
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), path) from None


def _open_container(path: str) -> InputContainer:
    try:
        return av.open(
            f"file:{path}",  # a colon in a name is no protocol
            metadata_errors="ignore",  # titles need not be UTF-8
            options={"protocol_whitelist": "file"},  # a playlist leads nowhere else
        )
    except FFmpegError:
        raise
    except ValueError as error:  # PyAV's own
        raise VideoError(path, f"is no video that FFmpeg can open ({error})") from error


def _video_stream(container: InputContainer, path: str, index: int | None) -> VideoStream:
    """The stream of moving pictures that is asked for, set to one decoding thread."""
    name = container.format.name
    still = name.endswith("_pipe")  # png_pipe, jpeg_pipe, ...
    kind = NOT_VIDEO.get("image2" if still else name)
    if kind:
        raise VideoError(path, f"is {kind}, no video")
    if not container.streams.video:
        raise VideoError(path, "holds no video stream")
    stream = best_stream(container, index)
    if stream is None:
        raise VideoError(path, "holds a cover picture, no video stream")
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


def best_stream(container: InputContainer, index: int | None = None) -> VideoStream | None:
    """The film among a file's video streams; None where there is but the cover picture of a song.

    As `ffmpeg` chooses: the one with the largest pictures, among equals the one that FFmpeg's
    library calls best. But covers and thumbnails lose, even where they come first, are larger, or
    are marked as the default; and so does what is empty or cannot be decoded. A film at `index`
    goes before all.
    """
    films = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    favourite = container.streams.best("video")

    def rank(stream: VideoStream) -> tuple[bool | int, ...]:
        if stream.codec_context is None:  # no decoder: behind all others
            return ()
        pixels = stream.width * stream.height
        return (
            stream.index == index,
            0 < pixels <= MAX_PIXELS and stream.pix_fmt is not None,  # else no picture was met
            not stream.disposition & BESIDE_A_FILM,
            stream.frames != 1 and stream.name not in OF_PICTURES,
            pixels,
            stream is favourite,
        )

    return max(films, key=rank, default=None)


def decoded_frames(
    container: InputContainer, stream: VideoStream, complaints: list | None = None
) -> Iterator[VideoFrame]:
    """Every picture from here to the end, in the decoder's output order.

    Packets that do not decode are passed over. `complaints` is a list that takes the errors met and
    a note for each damaged picture. Raises `MemoryError`, FFmpeg's too: the file is not to blame
    for what would then be missing.
    """
    complaints = [] if complaints is None else complaints
    # A generator of PyAV's that is merely dropped never frees its buffers; `close` does.
    with closing(container.demux(stream)) as packets:  # type: ignore[type-var]
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
        if isinstance(error, OSError):  # a disk's error, or what a demuxer calls damage
            check_readable(error.filename.removeprefix("file:"), READ_AGAIN)
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
