"""Files that are damaged, or made to hurt, scanned by worker processes from the shell.

Every one ends as a row of the table with its reason.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
import wave
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
X265 = {"x265-params": "keyint=12:log-level=none:pools=none"}
ENCODERS = {  # what issue 3 names: (encoder, options, pixel format, containers)
    "mpeg4": ({"g": "12"}, "yuv420p", ("avi", "mp4", "mkv")),
    "libx264": ({"g": "12", "preset": "veryfast"}, "yuv420p", ("avi", "mp4", "mkv")),
    "libx265": (X265, "yuv420p", ("mp4", "mkv")),
    "libvpx-vp9": (VP9, "yuv420p", ("mp4", "mkv", "webm")),
    "mjpeg": ({}, "yuvj420p", ("avi", "mp4", "mkv")),
}
# Runs the command, and tells how much memory its largest process took: the workers are its
# children's children.
WATCHED = """
import json, resource, subprocess, sys
words = [sys.executable, '-m', 'memdpc', *sys.argv[1:]]
done = subprocess.run(words, capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([done.returncode, done.stdout, done.stderr, peak]))
"""


def scan(root, out, cache, *words, before=()):
    """`memdpc scan` of a folder.

    The table's rows by path, the report, the largest process in MB, and seconds.
    """
    start = time.perf_counter()
    env = os.environ | {"MEMDPC_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            *before,
            sys.executable,
            "-c",
            WATCHED,
            "scan",
            "--dataset",
            "folder",
            "--root",
            str(root),
            "--out",
            str(out),
            *words,
        ],
        capture_output=True,
        text=True,
        env=env,
        cwd="/",
        timeout=580,
    )
    status, text, noise, memory = json.loads(done.stdout)
    assert (status, noise) == (0, ""), noise[-2000:]
    with open(out / "scan.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    return (
        rows,
        text,
        memory / (1e6 if sys.platform == "darwin" else 1e3),
        time.perf_counter() - start,
    )


def scene(frames=24, height=48, width=64):
    """Noise that slides: uint8 [T, H, W, 3]"""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, (t, 2 * t), (0, 1)) // 2 + 4 * t for t in range(frames)])


def encode(
    path,
    codec="libx264",
    options=None,
    pix_fmt="yuv420p",
    frames=None,
    pts=None,
    rotation=None,
    **stream_fields,
):
    """Write a video with PyAV alone."""
    frames = scene() if frames is None else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if pts:
                frame.pts = pts(i)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def spoiled(data, rng, kind):
    """A variant of a file.

    Cut at any byte, or with 1 to 64 bytes replaced, anywhere or among the first and the last 600.
    """
    if kind == "cut":
        return data[: rng.integers(len(data))]
    data, count = bytearray(data), int(rng.integers(1, 65))
    places = (
        rng.integers(len(data), size=count)
        if kind == "flip"
        else rng.integers(-600, 600, size=min(count, 16)) % len(data)
    )
    for place in places:
        data[place] = rng.integers(256)
    return bytes(data)


@pytest.fixture
def corpus(tmp_path, request):
    """Spoiled files, as many of each of 14 kinds as asked for, and the 14 whole ones."""
    rng = np.random.default_rng(3)
    for codec, (options, pix_fmt, suffixes) in ENCODERS.items():
        for suffix in suffixes:
            whole = encode(
                tmp_path / "f/whole" / f"{codec}.{suffix}", codec, options, pix_fmt
            ).read_bytes()
            for i in range(request.param):
                path = tmp_path / "f" / codec / f"{i:02d}.{suffix}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(spoiled(whole, rng, ("cut", "flip", "header")[i % 3]))
    return tmp_path / "f"


@pytest.mark.parametrize(
    "corpus", [6, pytest.param(72, marks=pytest.mark.slow)], indirect=True, ids=["84", "1008"]
)
def test_corrupted_files(corpus, tmp_path):
    """No crash, no hang, memory bounded, each classified.

    The second scan opens none of them and says the same.
    """
    rows, text, memory, seconds = scan(
        corpus, tmp_path / "out", tmp_path / "cache", "--time_limit", "20"
    )
    paths = {str(path.relative_to(corpus)) for path in corpus.rglob("*.*")}
    assert rows.keys() == paths and len(paths) in (14 * 7, 14 * 73)
    counts = Counter((path.split("/")[0], row["status"]) for path, row in rows.items())
    print(
        f"\n{seconds:.1f} s, largest process {memory:.0f} MB\n{text}",
        *sorted(counts.items()),
        sep="\n",
    )
    assert {row["status"] for row in rows.values()} == {"short", "broken"} and memory < 600  # MB
    assert all(
        rows[path]["status"] == "short" and rows[path]["frames"] == "24"
        for path in paths
        if path.startswith("whole")
    )
    for path, row in rows.items():
        assert (row["status"] == "broken") == bool(row["reason"]) and "Error" not in row[
            "reason"
        ], (path, row["reason"])
        assert row["status"] == "broken" or int(row["frames"]) > 0 and float(row["seconds"]) >= 0
    for codec in ENCODERS:
        assert counts[codec, "broken"] and counts[codec, "short"]
    again = scan(corpus, tmp_path / "again", tmp_path / "cache", "--time_limit", "20")
    assert again[0] == rows and again[3] < 5


@pytest.mark.slow
@pytest.mark.parametrize("corpus", [72], indirect=True)
def test_training_among_a_thousand_corrupted_files(corpus, tmp_path):
    """An epoch over them all, in two loader processes.

    It comes to its end, names the broken ones, and reads every other one.
    """
    env = os.environ | {"MEMDPC_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    sizes = "--preset demo --img_size 32 --num_blocks 3 --block_len 2 --pred_steps 1 --mem_size 16"
    sizes += " --batch_size 16 --epochs 1 --val_fraction 0 --num_workers 2 --device cpu"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WATCHED,
            "pretrain",
            "--dataset",
            "folder",
            "--root",
            str(corpus),
            "--out",
            str(tmp_path / "run"),
            *sizes.split(),
        ],
        capture_output=True,
        text=True,
        env=env,
        cwd="/",
        timeout=580,
    )
    status, _, noise, memory = json.loads(done.stdout)
    assert status == 0, noise[-2000:]
    results = json.loads((tmp_path / "run/metrics.json").read_text())
    print(f"\nlargest process {memory / 1e3:.0f} MB\n", results)
    assert (
        results["videos"] + results["skipped"] == 14 * 73
        and results["skipped"] > 100
        and results["steps"] == results["videos"] // 16
    )
    assert all(line.isprintable() for line in noise.splitlines()) and "Traceback" not in noise
    left_out = [line for line in noise.splitlines() if line.startswith("left out: ")]
    assert (
        len(left_out) == 101
        and left_out[-1] == f"left out: {results['skipped'] - 100} more"
        and all(": " in line[10:] for line in left_out[:-1])
    )


# ---- made to hurt


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))


def song(path):
    """An MP4 with sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])


def boast(path):
    """An AVI whose headers promise a billion frames."""
    data = bytearray(encode(path, "mpeg4").read_bytes())
    for tag, offset in (b"avih", 24), (b"strh", 40):
        at = data.index(tag) + offset
        data[at : at + 4] = (10**9).to_bytes(4, "little")
    path.write_bytes(data)


def picture(path):
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(scene(1)[0]).save(data, "PNG")
    path.write_bytes(data.getvalue())


def renamed(path, suffix, **more):
    """A file of one container under the suffix of another."""
    os.rename(encode(path.with_suffix(suffix), **more), path)


def unlikely_name(path):
    os.rename(encode(path.with_name("plain.mp4")), path)


OK = "short", "24", ""  # all are shorter than a clip
MATRIX = {  # name: (how to make it, (status, frames, a piece of the reason))
    "empty.mp4": (lambda path: path.write_bytes(b""), ("broken", "", "is empty")),
    "text.mp4": (
        lambda path: path.write_text("no video\n" * 99),
        ("broken", "", "no video that FFmpeg can open"),
    ),
    "page.avi": (
        lambda path: path.write_text("<html>404 Not Found</html>"),
        ("broken", "", "no video that FFmpeg can open"),
    ),
    "wrong extension.mp4": (lambda path: renamed(path, ".avi", codec="mpeg4"), OK),
    "no timestamps.mpg": (lambda path: renamed(path, ".h264"), OK),
    "wave.avi": (sound, ("broken", "", "no video stream")),
    "song.mp4": (song, ("broken", "", "no video stream")),
    "picture.avi": (picture, ("broken", "", "is a picture")),
    "1x1.mp4": (
        lambda path: encode(path, "libx264", pix_fmt="yuv444p", frames=scene(24, 1, 1)),
        OK,
    ),
    "8192 wide.mp4": (lambda path: encode(path, "libx264", frames=scene(24, 16, 8192)), OK),
    "10 bit.mp4": (lambda path: encode(path, "libx264", pix_fmt="yuv420p10le"), OK),
    "444.mkv": (lambda path: encode(path, "libx264", pix_fmt="yuv444p"), OK),
    "rotated.mp4": (lambda path: encode(path, rotation=90), OK),
    "interlaced.mkv": (lambda path: encode(path, "libx264", {"x264-params": "interlaced=1"}), OK),
    "negative.mkv": (lambda path: encode(path, "mpeg4", pts=lambda i: i - 100), OK),
    "negative.ts": (lambda path: encode(path, "mpeg2video", pts=lambda i: i - 100), OK),
    "B-frames.avi": (lambda path: encode(path, "libx264"), OK),
    "billion.avi": (boast, OK),
    "round.avi": (lambda path: path.symlink_to("round.avi"), ("broken", "", "symbolic links")),
    "gone.avi": (lambda path: path.symlink_to("nowhere.avi"), ("broken", "", "no such file")),
    "pipe.avi": (os.mkfifo, ("broken", "", "no regular file")),
    "device.avi": (lambda path: path.symlink_to("/dev/zero"), ("broken", "", "no regular file")),
    "folder.avi": (lambda path: path.mkdir(), None),
    "circle": (
        lambda path: path.symlink_to("..", target_is_directory=True),
        ("unlisted", "", "a link to a folder that holds it"),
    ),
    os.fsdecode(b"caf\xe9.mp4"): (unlikely_name, OK),
    os.fsdecode(b"bad\xff.mp4"): (lambda path: path.write_bytes(b""), ("broken", "", "is empty")),
    "two\nlines\t\x1b[31m.mp4": (unlikely_name, OK),
    "12:30, [x] (y) & ; !'\".mp4": (unlikely_name, OK),
    "locked.mp4": (lambda path: (encode(path), path.chmod(0)), ("broken", "", "Permission denied")),
    "locked": (
        lambda path: (path.mkdir(), encode(path / "in.mp4"), path.chmod(0)),
        ("unlisted", "", "cannot be read"),
    ),
}


DROPPED = "-dac_override,-dac_read_search"  # for root no file is locked, unless it renounces this


def test_everything_that_hurts_in_one_scan(tmp_path):
    """Each file has its row, its status and its reason.

    And nothing but the report comes to the terminal.
    """
    root = tmp_path / "hostile"
    root.mkdir()
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root can read locked files")
    for name, (make, _) in MATRIX.items():
        make(root / name)
    before = (
        () if os.geteuid() else ("setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}")
    )
    try:
        rows, text, memory, _ = scan(
            root, tmp_path / "out", tmp_path / "cache", "--time_limit", "20", before=before
        )
    finally:
        (root / "locked").chmod(0o755)
    print(f"\nlargest process {memory:.0f} MB\n{text}")
    wanted = {name: entry for name, (_, entry) in MATRIX.items() if entry}
    assert rows.keys() == wanted.keys()
    for name, (status, frames, reason) in wanted.items():
        row = rows[name]
        assert (
            (row["status"], row["frames"]) == (status, frames)
            and reason in row["reason"]
            and bool(reason) == bool(row["reason"])
        ), row
    assert (rows["rotated.mp4"]["width"], rows["rotated.mp4"]["height"]) == ("48", "64") and rows[
        "8192 wide.mp4"
    ]["width"] == "8192"
    assert (
        memory < 800
        and all(ord(letter) >= 32 or letter == "\n" for letter in text)
        and text.encode()
    )
