"""Opening and decoding: whose fault an error is, and what a reader leaves behind in memory."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
    write_video(path, np.zeros((3, 4096, 4096, 3), np.uint8), codec="ffv1", options={})
    limit = 30 << 20
    said = in_a_process(LITTLE_MEMORY, path, limit, 10 * limit)
    assert said == f"[Errno {errno.ENOMEM}] {os.strerror(errno.ENOMEM)}: '{path}'"
    said = in_a_process(LITTLE_MEMORY, path, limit, limit // 10)
    assert said == f"{path}: asks for more memory than there is"
