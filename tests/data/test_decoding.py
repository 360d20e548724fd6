"""Opening and decoding: whose fault an error is, and what a reader leaves behind in memory."""

import ctypes
import errno
import gc
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from memdpc.base.errors import VideoError
from memdpc.data.prepare import make_copy
from memdpc.data.video import probe, read_frames, write_video


def noise(num_frames=40, height=48, width=64):
    """Frames that do not compress: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (num_frames, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, noise())
    return path


def fault_of(function, *args):
    """The number of the system's error that a call ends with."""
    with pytest.raises(OSError) as caught:
        function(*args)
    assert caught.value.filename == os.fspath(args[0])
    return caught.value.errno


def in_a_process(script, *words, **environment):
    """What a script prints, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# ---- the machine's faults are not the file's


def test_no_permission(clip, tmp_path):
    """2026-11: a file that could not be read was one that cannot be decoded, for ever."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "clip.mp4"
    shutil.copy(clip, path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert fault_of(probe, path) == fault_of(read_frames, path, [0]) == errno.EACCES
    folder.chmod(0)
    assert fault_of(probe, path) == errno.EACCES
    folder.chmod(0o700)


def test_too_many_open_files(clip):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        assert fault_of(probe, clip) == fault_of(read_frames, clip, [0]) == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert probe(clip).frames == 40


FAILING_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Files named `failing...` can be read up to a place, as on a disk that is worn out there. */
ssize_t read(int file, void *buffer, size_t size) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return real(file, buffer, size);
    path[length] = 0;
    if (!strstr(path, "/failing")) return real(file, buffer, size);
    off_t left = atol(getenv("FAILS_AT")) - lseek(file, 0, SEEK_CUR);
    if (left <= 0) { errno = EIO; return -1; }
    return real(file, buffer, size < (size_t)left ? size : (size_t)left);
}
"""
PROBES = """
import sys
from memdpc.data.video import probe
for path in sys.argv[1:]:
    try:
        print(probe(path).frames)
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.parametrize("place", [60, 30_000])
def test_a_failing_disk(tmp_path, place):
    """2026-11: a video on it was "invalid data", or had fewer frames, and that was remembered.

    Below the header FFmpeg says so itself; under it, it says that the data are invalid.
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a failing disk is played by a C function, on Linux")
    source = tmp_path / "disk.c"
    source.write_text(FAILING_DISK)
    library = tmp_path / "disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    paths = []
    for suffix, codec in ((".mp4", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4")):
        path = tmp_path / f"failing{suffix}"
        write_video(path, noise(), codec=codec, options={})
        assert path.stat().st_size > 40_000
        paths.append(path)
    said = in_a_process(PROBES, *paths, LD_PRELOAD=str(library), FAILS_AT=str(place))
    assert said.split() == [str(errno.EIO)] * 3
    assert in_a_process(PROBES, *paths).split() == ["40"] * 3


LITTLE_MEMORY = """
import resource, sys
from memdpc.base.errors import VideoError
from memdpc.data import _decoding
from memdpc.data.video import probe
_decoding.SPARE_MEMORY = int(sys.argv[3])
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]), -1))
try:
    probe(sys.argv[1])
except (OSError, VideoError) as error:
    print(error)
"""


def test_too_little_memory(tmp_path):
    """Whether the machine is too small or the file too greedy: what would do for others tells."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("how much memory a process has is told by /proc")
    path = tmp_path / "large.avi"
    write_video(path, np.zeros((2, 2048, 2048, 3), np.uint8), codec="ffv1", options={})
    limit = 8 << 20
    said = in_a_process(LITTLE_MEMORY, path, limit, 10 * limit)
    assert said == f"[Errno {errno.ENOMEM}] {os.strerror(errno.ENOMEM)}: '{path}'"
    said = in_a_process(LITTLE_MEMORY, path, limit, limit // 10)
    assert said == f"{path}: asks for more memory than there is"


# ---- which stream of several


THUMBNAIL = ("mjpeg", 24, 32)  # encoder, height, width
COVER = ("mjpeg", 256, 192)
SMALL = ("mpeg4", 24, 32)
FILM = ("mpeg4", 96, 128)


def mux(path, *streams, disposition=None):
    """Write video streams, each (number of frames, (encoder, height, width)), into one file."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        added = []
        for _, (codec, height, width) in streams:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            added.append(stream)
        if disposition is not None:
            added[0].disposition = disposition
        for stream, (frames, (_, height, width)) in zip(added, streams):
            for _ in range(frames):
                picture = rng.integers(0, 255, (height, width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return path


def plain(path, index):
    """Every frame of a stream as PyAV gives it."""
    with av.open(str(path)) as container:
        frames = container.decode(container.streams[index])
        return [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".ts"])
@pytest.mark.parametrize(
    "beside",
    [(1, THUMBNAIL), (10, THUMBNAIL), (40, SMALL), (1, COVER)],
    ids=["thumbnail", "thumbnails", "small", "cover"],
)
@pytest.mark.parametrize("first", [0, 1])
def test_the_film_is_read_not_what_lies_beside_it(tmp_path, suffix, beside, first):
    """2026-11: the first stream was read, a thumbnail.

    MP4's muxer marks the first one as the default, so FFmpeg's library calls the thumbnail best.
    """
    film = (40, FILM)
    streams = [beside, film] if first == 0 else [film, beside]
    path = mux(tmp_path / f"two{suffix}", *streams)
    info = probe(path)
    assert (info.frames, info.width, info.height, info.codec) == (40, 128, 96, "mpeg4")
    assert info.stream == 1 - first
    theirs = plain(path, info.stream)
    assert (read_frames(path, range(40), info=info) == theirs).all()
    assert (read_frames(path, [33]) == theirs[33]).all()


def test_among_equals_ffmpegs_choice(tmp_path):
    for suffix in (".mp4", ".mkv", ".avi"):
        path = mux(tmp_path / f"equal{suffix}", (12, FILM), (12, FILM))
        with av.open(str(path)) as container:
            best = container.streams.best("video").index
        assert probe(path).stream == best


def test_the_stream_that_was_counted_is_read(tmp_path):
    """Whatever `best_stream` would say today; unless the file was replaced by one without it."""
    path = mux(tmp_path / "two.mkv", (12, SMALL), (12, FILM))
    info = replace(probe(path), stream=0, seek_points=())
    small = read_frames(path, [3], info=replace(info, width=32, height=24))
    assert (small[0] == plain(path, 0)[3]).all()
    late = replace(info, stream=7)
    assert (read_frames(path, [3], info=late) == read_frames(path, [3])).all()


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".ts"])
def test_an_empty_stream_is_no_film(tmp_path, suffix):
    assert probe(mux(tmp_path / f"empty{suffix}", (12, SMALL), (0, FILM))).width == 32


def test_a_stream_without_a_decoder_is_no_film(tmp_path):
    path = mux(tmp_path / "unknown.avi", (12, THUMBNAIL), (12, FILM))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    assert probe(path).codec == "mjpeg"
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZZ"))
    with pytest.raises(VideoError, match="there is no decoder"):
        probe(path)


def test_a_copy_is_of_the_film(tmp_path):
    path = mux(tmp_path / "two.mp4", (40, THUMBNAIL), (12, FILM))
    info, _ = make_copy(os.fspath(path), tmp_path / "copy", 48, 18)
    assert (info.frames, info.width, info.height, info.stream) == (12, 64, 48, 0)


def test_a_thumbnail_alone_is_a_video(tmp_path):
    """Only where there is nothing else."""
    assert probe(mux(tmp_path / "small.mkv", (10, THUMBNAIL))).frames == 10


def test_a_cover_picture_is_no_video(tmp_path):
    cover = Disposition.attached_pic
    path = mux(tmp_path / "song.mp4", (1, COVER), (12, FILM), disposition=cover)
    assert probe(path).frames == 12
    alone = tmp_path / "alone.mp4"
    with av.open(str(alone), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        picture = container.add_stream("mjpeg", rate=25)
        picture.height, picture.width, picture.pix_fmt = 24, 32, "yuvj420p"
        picture.disposition = cover
        samples = np.zeros((1, 8000), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = 8000
        pixels = av.VideoFrame.from_ndarray(noise(1)[0, :24, :32], format="rgb24")
        container.mux([*sound.encode(frame), *sound.encode(None)])
        container.mux([*picture.encode(pixels), *picture.encode(None)])
    with pytest.raises(VideoError, match="holds a cover picture, no video stream"):
        probe(alone)


# ---- what a reader leaves behind in memory


class Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]


def malloc_bytes():
    """Bytes that malloc has given out in this process and that were not freed."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        pytest.skip("this C library does not count")
    mallinfo.restype = Mallinfo
    gc.collect()
    return mallinfo().field7


def kept(path, clips):
    """Bytes that each of so many clips leaves behind, after as many to warm up."""
    info = probe(path)
    for number in range(2 * clips):
        if number == clips:
            before = malloc_bytes()
        start = number % 30
        read_frames(path, [start, start + 4], 16, info=info)
    return (malloc_bytes() - before) / clips


def test_clips_leave_nothing_behind(clip):
    """2026-11: 145 bytes a clip, for PyAV's generators keep their buffers unless closed."""
    assert kept(clip, 200) < 72


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix,codec", [(".mp4", "libx264"), (".avi", "mpeg4"), (".webm", "libvpx-vp9")]
)
def test_thousands_of_clips_leave_nothing_behind(tmp_path, suffix, codec):
    path = tmp_path / f"clip{suffix}"
    write_video(path, noise(), codec=codec, options={"g": "12"})
    assert kept(path, 2500) < 20
