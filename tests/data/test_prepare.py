"""Smaller copies of datasets.

Picture for picture, with their times, and the same bytes whatever was killed on the way.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import av
import numpy as np
import pytest
from trees import alive, living_children, texts, wait_for

from memdpc.base.config import PrepareConfig
from memdpc.base.errors import MemdpcError
from memdpc.base.files import write_bytes
from memdpc.data import prepare as prepare_module
from memdpc.data.guard import run_guarded
from memdpc.data.index import Index
from memdpc.data.layouts import DATASETS
from memdpc.data.layouts.walk import VIDEO_SUFFIXES
from memdpc.data.prepare import copy_entry, prepare, psnr, small_size
from memdpc.data.shapes import write_shapes
from memdpc.data.video import frame_times, probe, read_frames, write_video
from memdpc.data.videos import load_dataset


def numbered(frames, height=60, width=80):
    """A gradient that moves; eight stripes at the top spell the frame's number: [T, H, W, 3]."""
    y, x = np.mgrid[:height, :width] / height
    video = np.empty((frames, height, width, 3), np.uint8)
    for t, frame in enumerate(video):
        frame[:] = (
            120 + 60 * np.sin(4 * x[..., None] + t / 9 + [0, 1, 2]) * np.cos(3 * y[..., None])
        ).astype(np.uint8)
        for bit in range(8):
            frame[: height // 4, bit * width // 8 : (bit + 1) * width // 8] = 230 * (t >> bit & 1)
    return video


def number(frame):
    """What the stripes spell."""
    height, width = frame.shape[:2]
    return sum(
        int(frame[height // 16 : height // 6, (2 * bit + 1) * width // 16].mean() > 115) << bit
        for bit in range(8)
    )


def write(path, frames, times=None, rotation=0, sound=False, **tags):
    """A file with what `write_video` does not write.

    Times in milliseconds, rotation, sound, tags that say how colours are stored.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", "g": "50"})
        stream.height, stream.width = frames.shape[1:3]
        stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        if sound:
            audio = container.add_stream("aac", rate=8000)
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 8000), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate = 8000
        for index, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = (
                int(times[index]) if times is not None else 40 * index,
                Fraction(1, 1000),
            )
            container.mux(stream.encode(frame))
        if sound:
            container.mux([*audio.encode(silence), *audio.encode(None)])
        container.mux(stream.encode(None))


SCENE = numbered(40)
TIMES = 5000 + np.cumsum(np.random.default_rng(0).integers(5, 120, 40))
LOSSLESS = {"codec": "ffv1", "options": {}}
KINDS = {
    "plain.mp4": lambda path: write_video(path, SCENE),
    "sound.mp4": lambda path: write(path, SCENE, sound=True),
    "slides.mkv": lambda path: write(path, SCENE[:6], 4_000_000 * np.arange(6)),
    "bt709.mp4": lambda path: write(path, SCENE, colorspace=1, color_primaries=1, color_trc=1),
    "varying.mkv": lambda path: write(path, SCENE, TIMES),
    "left.mp4": lambda path: write(path, SCENE, rotation=90),
    "head.mp4": lambda path: write(path, SCENE, rotation=180),
    "unordered.avi": lambda path: write_video(path, SCENE, 30, options={"crf": "12"}),
    "mpeg4.avi": lambda path: write_video(
        path, SCENE, 30, codec="mpeg4", options={"bf": "2", "qmax": "3"}
    ),
    "stream.ts": lambda path: write_video(path, SCENE, options={"crf": "12"}),
    "program.mpg": lambda path: write_video(
        path, SCENE, codec="mpeg2video", options={"qmax": "3", "bf": "2"}
    ),
    "odd.mkv": lambda path: write_video(path, SCENE[:, :59, :77], **LOSSLESS, pix_fmt="bgr0"),
    "ten.mkv": lambda path: write_video(path, SCENE, **LOSSLESS, pix_fmt="yuv420p10le"),
    "full.avi": lambda path: write_video(
        path, SCENE, codec="mjpeg", options={"qmax": "2"}, pix_fmt="yuvj444p"
    ),
    "grey.mkv": lambda path: write_video(path, SCENE, **LOSSLESS, pix_fmt="gray"),
    "vp9.webm": lambda path: write_video(
        path, SCENE, codec="libvpx-vp9", options={"crf": "12", "cpu-used": "8"}
    ),
    "dot.mkv": lambda path: write_video(path, SCENE[:3, :1, :1], **LOSSLESS, pix_fmt="bgr0"),
    "one.mp4": lambda path: write_video(path, SCENE[:1]),
    "12:30 [a] & 'b';\n% ü.mp4": lambda path: write_video(path, SCENE),
    "deep/er/UPPER.MP4": lambda path: write_video(path, SCENE),
    os.fsdecode(b"caf\xe9.mp4"): lambda path: write_video(path, SCENE),
}


def plant(root, kinds=KINDS):
    """A folder with one video of each kind; file names need not be UTF-8."""
    for number, (name, make) in enumerate(kinds.items()):
        aside = root.parent / f"made{number}{Path(name).suffix.lower()}"
        make(aside)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, root / name)
    return root


def job(root, out, **more):
    return PrepareConfig(
        **{
            "dataset": "folder",
            "root": str(root),
            "out": str(out),
            "short_side": 48,
            "num_workers": 1,
        }
        | more
    )


def tree(folder):
    """Everything in a folder, at any depth.

    For a file its bytes, rights and time of change (not that of prepare.json), None for a folder.
    """

    def state(path):
        status = path.stat()
        return path.read_bytes(), status.st_mode, path.name == "prepare.json" or status.st_mtime_ns

    return {
        path.relative_to(folder): state(path) if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(config):
    """The one line of the error, which the command line turns into exit status 2."""
    with pytest.raises(MemdpcError) as error:
        prepare(config)
    text = str(error.value)
    assert "\n" not in text and text.encode()
    return text


def shell(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "memdpc", "prepare", *map(str, words)],
        capture_output=True,
        text=True,
        **more,
    )


# ---- one video


@pytest.mark.parametrize(
    "size,side,small",
    [
        ((320, 240), 160, (160, 212)),
        ((1080, 1920), 160, (284, 160)),
        ((101, 75), 160, (74, 100)),
        ((1, 1), 16, (2, 2)),
        ((8192, 3), 16, (2, 8192)),
        ((50, 50), 49, (48, 48)),
        ((1920, 1080), 4096, (1080, 1920)),
    ],
)
def test_sizes(size, side, small):
    """(height, width) of the copy: even, upright, in proportion, never enlarged."""
    assert small_size(*size, side) == small


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Videos of all kinds, their state before, and the copy that two workers made."""
    folder = tmp_path_factory.mktemp("copied")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMDPC_CACHE", str(folder / "cache"))
        root = plant(folder / "root")
        before = tree(root)
        report = prepare(job(root, folder / "out", num_workers=2))
        indexed = {name: Index(folder / "out").fresh(name) for name in KINDS}
    return root, folder / "out", before, report, indexed


@pytest.mark.parametrize("name", KINDS)
def test_picture_for_picture(copied, name):
    """Every picture in its place, at its time, upright and alike.

    H.264 without B-frames, a keyframe at least at every twelfth picture, no sound.
    """
    source, copy = copied[0] / name, copied[1] / name
    was, now = probe(source), probe(copy)
    assert (now.height, now.width) == small_size(was.width, was.height, 48) and (
        now.frames,
        now.codec,
    ) == (was.frames, "h264")
    assert (
        now.fps == pytest.approx(was.fps)
        and np.abs(frame_times(was) - frame_times(now)).max() * now.fps < 0.2
    )
    if name == "varying.mkv":
        with av.open(str(copy)) as container:
            times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
        assert np.allclose(times, (TIMES - TIMES[0]) / 1000, atol=1e-6) and now.times
    pictures = read_frames(copy, range(now.frames))
    assert (
        psnr(
            read_frames(source, range(was.frames), pictures.shape[1:3]),
            read_frames(copy, range(now.frames), pictures.shape[1:3]),
        )
        > 33
    )
    if name not in ("dot.mkv", "left.mp4", "head.mp4"):
        assert [number(frame) for frame in pictures] == list(range(was.frames))
    with av.open("file:" + os.fspath(copy)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        kinds = [
            (packet.is_keyframe, packet.pts == packet.dts)
            for packet in container.demux()
            if packet.size
        ]
    assert all(ordered for _, ordered in kinds) and all(
        any(key for key, _ in kinds[i : i + 12]) for i in range(0, len(kinds) - 11)
    )
    assert now.seek_points[:1] == (((12, now.seek_points[0][1]),) if was.frames > 12 else ())


def test_a_copy_tells_its_quality_and_is_known(copied):
    """The report counts all; the dataset was not written to.

    No later command opens the copy again.
    """
    root, out, before, report, indexed = copied
    assert tree(root) == before and all(indexed.values())
    assert (len(report.kept), report.skipped, report.broken) == (len(KINDS), 0, ()) and sorted(
        report.kept
    ) == sorted(KINDS)
    assert report.sizes == tuple(
        sum((folder / name).stat().st_size for name in KINDS) for folder in (root, out)
    )
    assert len(report.qualities) == len(KINDS) and all(
        33 < quality < 100 for quality, _ in report.qualities
    )
    text = str(report)
    assert (
        text.encode()
        and len(text.splitlines()) == 4
        and f"{len(KINDS)} videos copied, 0 there already, 0 left out" in text
        and "clips/s" in text
    )
    assert {path.name for path in out.iterdir()} - {Path(name).parts[0] for name in KINDS} == {
        "prepare.json"
    }
    assert {path.stat().st_mode for path in out.rglob("*.mp4")} == {
        (out / "prepare.json").stat().st_mode
    }


def test_the_same_bytes_from_any_number_of_workers(copied, tmp_path):
    """One process or two, guarded or not: the same tree."""
    kinds = {
        name: KINDS[name]
        for name in ("plain.mp4", "varying.mkv", "unordered.avi", "left.mp4", "odd.mkv", "ten.mkv")
    }
    root = tmp_path / "root"
    root.mkdir()
    for name in kinds:
        os.link(copied[0] / name, root / name)
    for workers in (0, 1, 2):
        prepare(job(root, tmp_path / str(workers), num_workers=workers))
    assert tree(tmp_path / "0") == tree(tmp_path / "1") == tree(tmp_path / "2")
    assert all(
        (tmp_path / "0" / name).read_bytes() == (copied[1] / name).read_bytes() for name in kinds
    )


def test_a_copy_goes_by_its_content(copied, tmp_path):
    """MP4 under any suffix that a video may have is read as MP4."""
    data, info = (copied[1] / "varying.mkv").read_bytes(), probe(copied[1] / "varying.mkv")
    for suffix in VIDEO_SUFFIXES:
        (tmp_path / f"copy{suffix}").write_bytes(data)
        assert probe(tmp_path / f"copy{suffix}") == info, suffix


# ---- a dataset


def test_done_changed_and_broken(tmp_path, caplog):
    """A second run does nothing; a source that changed is copied again, alone.

    What broke since is left out, and so is its copy.
    """
    root, out = (
        plant(tmp_path / "root", {f"{i}.mp4": KINDS["plain.mp4"] for i in range(3)}),
        tmp_path / "out",
    )
    (root / "empty.mp4").touch()
    (root / "page.mkv").write_text("<html>404</html>")
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere")
    first = prepare(job(root, out))
    assert [path for path, _ in first.broken] == ["empty.mp4", "gone.mp4", "page.mkv"] and dict(
        first.broken
    )["empty.mp4"] == "is empty"
    assert "left out: empty.mp4: is empty" in str(first) and "3 videos are left out" in caplog.text
    was = {path: path.stat() for path in out.rglob("*")}
    second = prepare(job(root, out))
    assert (second.skipped, len(second.kept), second.broken, len(second.qualities)) == (
        3,
        3,
        first.broken,
        3,
    )
    assert all(
        (path.stat().st_ino, path.stat().st_mtime_ns) == (old.st_ino, old.st_mtime_ns)
        for path, old in was.items()
    )
    write_video(root / "1.mp4", SCENE[:20])
    (root / "2.mp4").write_bytes((root / "2.mp4").read_bytes()[:500])
    third = prepare(job(root, out))
    assert (third.skipped, len(third.kept), len(third.broken)) == (1, 2, 4) and probe(
        out / "1.mp4"
    ).frames == 20
    assert (
        not (out / "2.mp4").exists() and (out / "0.mp4").stat().st_ino == was[out / "0.mp4"].st_ino
    )
    moment = 1_700_000_000_123_456_789
    for changed, noted, skipped in (
        (moment, moment - 1, 1),
        (moment, moment // 10**9 * 10**9, 2),
        (moment, moment // 100 * 100, 2),
        (moment, moment // 10**9 * 10**9 - 2 * 10**9, 1),
        (moment, moment // 100 * 100 - 10**6, 1),
        (moment - 10**9, moment // 10**9 * 10**9, 1),
    ):
        os.utime(root / "0.mp4", ns=(changed, changed))
        os.utime(
            out / "0.mp4", ns=(noted, noted)
        )  # as file systems round that know only 100 ns, or whole seconds
        assert prepare(job(root, out, num_workers=0)).skipped == skipped
    (root / "0.mp4").unlink()
    last = prepare(job(root, out))
    assert (
        last.stale == ("0.mp4",)
        and (out / "0.mp4").exists()
        and "still in the copy: 1 videos (the first: 0.mp4)" in str(last)
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_copy_stays_when_its_source_cannot_be_read_for_the_moment(tmp_path, num_workers):
    """2026-11: while a disk was not mounted, every copy of what lay on it was deleted.

    What the decoder cannot read any more is left out, and its copy with it.
    """
    disk = plant(tmp_path / "disk", {f"{i}.mp4": KINDS["plain.mp4"] for i in range(3)})
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    for i in range(3):
        (root / f"{i}.mp4").symlink_to(disk / f"{i}.mp4")
    prepare(job(root, out, num_workers=num_workers))
    copies = tree(out)
    disk.rename(tmp_path / "elsewhere")
    assert "none of the 3 videos can be read" in refused(job(root, out, num_workers=num_workers))
    assert tree(out) == copies
    (root / "0.mp4").unlink()
    (root / "0.mp4").symlink_to(tmp_path / "elsewhere/0.mp4")
    part = prepare(job(root, out, num_workers=num_workers))
    assert part.kept == ("0.mp4",)
    assert all("its earlier copy stays" in reason for _, reason in part.broken)
    assert tree(out) == copies
    (tmp_path / "elsewhere").rename(disk)
    (disk / "1.mp4").write_bytes(b"no video")
    last = prepare(job(root, out, num_workers=num_workers))
    assert [path for path, _ in last.broken] == ["0.mp4", "1.mp4"]
    assert sorted(path.name for path in out.glob("*.mp4")) == ["0.mp4", "2.mp4"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_among_the_videos_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.mp4")
    entry = copy_entry(str(tmp_path / "x.mp4"), str(tmp_path), 32, 18)
    assert entry["reason"] == "is no regular file"
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_lists_and_settings_that_are_pipes_or_damaged(tmp_path):
    """A pipe among the lists is no list, and is not waited for; settings are read with care."""
    root = plant(tmp_path / "root", {"a.mp4": KINDS["plain.mp4"]})
    (root / "train.csv").write_text("path,label\na.mp4,x\n")
    os.mkfifo(root / "test.csv")
    out = tmp_path / "out"
    prepare(job(root, out, dataset="csv"))
    assert not (out / "test.csv").exists()
    for text in "[" * 100_000, "9" * 5000, "[1]", "", "null":
        (out / "prepare.json").write_text(text)
        assert "prepare.json: is damaged" in refused(job(root, out, dataset="csv"))


def test_a_copy_is_a_dataset(tmp_path):
    """UCF101's layout: the copy gives the same videos, labels, groups and classes in all splits.

    Its lists are the same files.
    """
    root, out = write_shapes(tmp_path / "shapes", 4, num_workers=2), tmp_path / "out"
    (root / "notes.txt").write_text("not a dataset's file")
    report = prepare(job(root, out, dataset="ucf101", short_side=32))
    assert len(report.kept) == 32 and not report.broken
    for split, subset in ((1, "train"), (3, "test")):
        was, now = (
            load_dataset("ucf101", folder, split, subset, progress=False) for folder in (root, out)
        )
        assert [(v.path, v.label, v.group, v.info.frames) for v in was.videos] == [
            (v.path, v.label, v.group, v.info.frames) for v in now.videos
        ]
        assert was.classes == now.classes and {
            (v.info.width, v.info.height) for v in now.videos
        } == {(32, 32)}
    assert not (out / "notes.txt").exists()
    for path in (root / "splits_classification").iterdir():
        same = out / "splits_classification" / path.name
        assert (same.read_bytes(), same.stat().st_mtime_ns) == (
            path.read_bytes(),
            path.stat().st_mtime_ns,
        )
    (root / "splits_classification/trainlist02.txt").write_text(
        (root / "splits_classification/trainlist01.txt").read_text()
    )
    assert prepare(job(root, out, dataset="ucf101", short_side=32)).skipped == 32
    assert (out / "splits_classification/trainlist02.txt").read_bytes() == (
        root / "splits_classification/trainlist01.txt"
    ).read_bytes()


# ---- mistakes


def test_mistakes_are_one_line(tmp_path):
    root, out = plant(tmp_path / "root", {"a.mp4": KINDS["plain.mp4"]}), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "no out: name the folder" in refused(job(root, ""))
    assert "no root" in refused(job("", out))
    for inside in (root, root / "copy", tmp_path):
        assert "a folder of its own" in refused(job(root, inside))
    (tmp_path / "link").symlink_to(root)
    assert "a folder of its own" in refused(job(root, tmp_path / "link/copy"))
    assert "no such folder" in refused(job(tmp_path / "nowhere", out))
    assert "no video files" in refused(job(tmp_path / "empty", out))
    assert all(name in refused(job(root, out, dataset="ucf102")) for name in ("ucf102", *DATASETS))
    assert "no folder videos" in refused(job(root, out, dataset="ucf101"))
    assert not out.exists() and sorted(os.listdir(root)) == ["a.mp4"]
    with pytest.raises(MemdpcError, match="short_side must lie in"):
        job(root, out, short_side=8)


def test_folders_of_others_are_left_alone(tmp_path):
    """A folder with something else in it, other settings, a link that leads to the source."""
    root, out, other = (
        plant(tmp_path / "root", {"a/a.mp4": KINDS["plain.mp4"]}),
        tmp_path / "out",
        tmp_path / "other",
    )
    (other / "a").mkdir(parents=True)
    (other / "a/a.mp4").write_bytes(b"mine")
    assert (
        "is not empty, and holds no copy" in refused(job(root, other))
        and (other / "a/a.mp4").read_bytes() == b"mine"
    )
    prepare(job(root, out))
    assert "begun with short_side 48 instead of 64" in refused(job(root, out, short_side=64))
    assert "crf" in refused(job(root, out, crf=30))
    (out / "prepare.json").write_text("{")
    assert "is damaged" in refused(job(root, out))
    linked, before = tmp_path / "linked", tree(root)
    prepare(job(root, linked))
    (linked / "a/a.mp4").unlink()
    (linked / "a/a.mp4").symlink_to(root / "a/a.mp4")  # a link to a file gives way to the copy
    assert (
        prepare(job(root, linked)).skipped == 0
        and (linked / "a/a.mp4").is_file()
        and not (linked / "a/a.mp4").is_symlink()
    )
    (linked / "a/a.mp4").unlink()
    (linked / "a").rmdir()
    (linked / "a").symlink_to(root / "a")  # one to a folder would be written through
    assert "a link leads out of the copy" in refused(job(root, linked))
    bench = tmp_path / "fresh" / ".prepare"  # what lies in it is cleared
    bench.parent.mkdir()
    bench.symlink_to(root)
    assert "a link, whose files would be removed" in refused(job(root, bench.parent))
    assert tree(root) == before


HOLD = """
import sys, time
from pathlib import Path
from memdpc.base.files import hold_folder
lock = hold_folder(Path(sys.argv[1]))
print('in', flush=True)
time.sleep(600)
"""


def test_two_at_once(tmp_path):
    """The second process is told so; the first goes on undisturbed."""
    root = plant(tmp_path / "root", {"a.mp4": KINDS["plain.mp4"]})
    out = tmp_path / "out"
    words = [sys.executable, "-c", HOLD, out / ".prepare"]
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "in\n"
    (out / ".prepare/work").write_bytes(b"at work")
    assert "another process is at work in this folder" in refused(job(root, out))
    assert (out / ".prepare/work").exists()
    first.kill()
    first.wait()
    prepare(job(root, out))
    assert sorted(os.listdir(out)) == ["a.mp4", "prepare.json"]


def test_the_command_line(tmp_path):
    """The report on standard output, one line and status 2 for a mistake.

    And for a disk that takes no more; then it goes on.
    """
    root, out = (
        plant(tmp_path / "root", {f"{i}.mp4": KINDS["plain.mp4"] for i in range(3)}),
        tmp_path / "out",
    )
    words = "--dataset", "folder", "--root", root, "--out", out, "--short-side", 48
    full = shell(*words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)))
    assert (
        full.returncode == 2
        and full.stderr.count("\n") == 1
        and "File too large" in full.stderr
        and str(out) in full.stderr
    ), full.stderr
    assert sorted(os.listdir(out)) == ["prepare.json"]
    done = shell(*words)
    assert (
        done.returncode == 0
        and "3 videos copied, 0 there already, 0 left out" in done.stdout
        and "dB" in done.stdout
    ), done.stderr
    wrong = shell("--dataset", "folder", "--root", tmp_path / "nowhere", "--out", out)
    assert (
        wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "no such folder" in wrong.stderr
    )


BAD_VIDEO = """
import os, signal, time
from memdpc.data.prepare import copy_entry

def work(path, *more):
    if 'slow' in path: time.sleep(600)
    if 'fatal' in path: os.kill(os.getpid(), signal.SIGSEGV)
    return copy_entry(path, *more)
"""


def test_a_file_that_takes_too_long_or_kills_the_decoder(tmp_path, monkeypatch):
    """Left out with its reason; the others are copied."""
    (tmp_path / "bad_video.py").write_text(BAD_VIDEO)
    monkeypatch.syspath_prepend(str(tmp_path))
    work = import_module("bad_video").work

    def run_bad(_, paths, workers, limit, *more):
        return run_guarded(work, paths, workers, 5, *more)

    monkeypatch.setattr(prepare_module, "run_guarded", run_bad)
    names = ("1.mp4", "slow.mp4", "fatal.mp4", "4.mp4")
    root = plant(tmp_path / "root", dict.fromkeys(names, KINDS["plain.mp4"]))
    report = prepare(job(root, tmp_path / "out"))
    assert report.kept == ("1.mp4", "4.mp4")
    reasons = dict(report.broken)
    assert set(reasons) == {"slow.mp4", "fatal.mp4"}
    assert "takes longer" in reasons["slow.mp4"]
    assert "crashes" in reasons["fatal.mp4"]
    assert sorted(os.listdir(tmp_path / "out")) == ["1.mp4", "4.mp4", "prepare.json"]


def test_a_table_is_copied_with_what_it_names(tmp_path):
    """csv: whatever the suffix of a listed file is, the copy is the same dataset."""
    root = plant(tmp_path / "root", {"a/1.mp4": KINDS["plain.mp4"]})
    os.replace(root / "a/1.mp4", root / "a/1.film")
    texts(root, {"train.csv": ["path,label", "a/1.film,run"]})
    out = tmp_path / "out"
    assert prepare(job(root, out, dataset="csv", num_workers=0)).kept == ("a/1.film",)
    (video,) = load_dataset("csv", out, progress=False).videos
    assert (video.path, video.info.frames) == ("a/1.film", 40)


# ---- killed, interrupted, out of space, endless

DRIVER = """
import os, sys
from memdpc.data import index
from memdpc.data import prepare
from memdpc.base.config import PrepareConfig
root, out, moment, place, count = sys.argv[1:]
count = int(count)
def deadly(function, name):
    calls = []
    def call(*args, **more):
        calls.append(1)
        now = place == name and len(calls) == count
        if moment == "before" and now: os.kill(os.getpid(), 9)
        result = function(*args, **more)
        if moment == "after" and now: os.kill(os.getpid(), 9)
        return result
    return call
os.replace = deadly(os.replace, "replace")
index.Index.add = deadly(index.Index.add, "index")
prepare.prepare(PrepareConfig("ucf101", root, out, 64))
"""


def start(root, out, moment="-", place="-", count=0):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, root, out, moment, place, str(count)],
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


def kill(process, with_workers):
    """SIGKILL to the job, and to its worker processes or not."""
    workers = living_children(process.pid) if with_workers else []
    for pid in (process.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """UCF101's layout with 72 videos of 90 frames, larger than a copy."""
    root, names = (
        tmp_path_factory.mktemp("films"),
        [f"Dash/v_Dash_g{i:02d}_c01.avi" for i in range(1, 73)],
    )
    (root / "videos/Dash").mkdir(parents=True)
    (root / "splits_classification").mkdir()
    for kind in range(4):
        write_video(
            root / f"{kind}.avi",
            np.roll(numbered(90, 180, 320), 40 * kind, 2),
            options={"crf": "20", "g": "90", "bf": str(2 * (kind % 2))},
        )
    for number, name in enumerate(names):
        write_bytes(root / "videos" / name, (root / f"{number % 4}.avi").read_bytes())
    for kind in range(4):
        (root / f"{kind}.avi").unlink()
    texts = {
        "classInd": ["1 Dash"],
        "trainlist01": [f"{name} 1" for name in names[9:]],
        "testlist01": names[:9],
    }
    for name, lines in texts.items():
        (root / f"splits_classification/{name}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_twenty_kills_change_nothing(films, tmp_path):
    """SIGKILL, with and without the workers: the same tree in the end.

    At random moments of the work, and right before and after files are moved and noted.
    """
    whole, out, rng = tmp_path / "whole", tmp_path / "out", random.Random(0)
    assert start(films, whole).wait() == 0
    exact = [
        ("before", "replace", 1),
        ("before", "replace", 2),
        ("after", "replace", 2),
        ("before", "replace", 4),
        ("after", "replace", 3),
        ("after", "replace", 5),
        ("before", "index", 1),
        ("after", "index", 2),
    ]
    at_work = 0
    for number in range(20):
        if number < len(exact):
            assert start(films, out, *exact[number]).wait() == -signal.SIGKILL, exact[number]
        else:
            before, process = set(out.rglob("*")), start(films, out)
            while not any(
                path.parent.name == ".prepare" for path in set(out.rglob("*")) - before
            ):  # a video of this run's is at work
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.35))
            kill(process, with_workers=number % 2)
        copies = list(out.rglob("*.avi"))
        assert len(copies) < 72, "nothing was left to be done"
        at_work += any(path.name != ".lock" for path in (out / ".prepare").glob("*"))
        assert not (
            out / "splits_classification"
        ).exists()  # they come last: what is unfinished is no dataset
        for path in copies:  # whatever has its name is whole
            assert path.read_bytes() == (whole / path.relative_to(out)).read_bytes()
    assert at_work >= 15
    assert start(films, out).wait() == 0
    assert tree(out) == tree(whole) and len(list(out.rglob("*.avi"))) == 72
    assert sorted(os.listdir(out)) == ["prepare.json", "splits_classification", "videos"]


@pytest.mark.slow
def test_interrupted(films, tmp_path):
    """Ctrl-C: status 130, nothing but whole files, no worker left; the next run goes on."""
    words = "--dataset", "ucf101", "--root", films, "--out", tmp_path / "out", "--short_side", 64
    process = subprocess.Popen(
        [sys.executable, "-m", "memdpc", "prepare", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list(tmp_path.rglob("out/videos/Dash/*.avi"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    workers = living_children(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130 and "Traceback" not in process.stderr.read()
    assert len(workers) == 2
    wait_for(lambda: not any(map(alive, workers)))
    assert sorted(os.listdir(tmp_path / "out")) == ["prepare.json", "videos"]
    there = len(list((tmp_path / "out").rglob("*.avi")))
    done = shell(*words)
    assert (
        done.returncode == 0 and f"{72 - there} videos copied, {there} there already" in done.stdout
    )


@pytest.mark.slow
def test_a_worker_that_is_killed(films, tmp_path):
    """As when memory runs out: the run ends with one line that says so, and goes on later."""
    process = start(films, tmp_path / "out")
    while len(list(tmp_path.rglob("out/videos/Dash/*.avi"))) < 5:
        time.sleep(0.01)
    os.kill(living_children(process.pid)[0], signal.SIGKILL)
    assert (
        process.wait(120) == 1
        and "was killed (SIGKILL)" in process.stderr.read().decode().splitlines()[-1]
    )
    assert (
        start(films, tmp_path / "out").wait() == 0
        and len(list((tmp_path / "out").rglob("*.avi"))) == 72
    )


@pytest.mark.slow
def test_a_full_disk(films, tmp_path):
    """A file system that fills up: one line, status 2, whole files only; with space it goes on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        words = "--dataset", "ucf101", "--root", films, "--out", folder / "out", "--short_side", 64
        full = shell(*words)
        assert (
            full.returncode == 2
            and full.stderr.count("\n") == 1
            and "No space left on device" in full.stderr
        ), full.stderr
        whole = list(folder.rglob("*.avi"))
        assert (
            whole
            and sorted(os.listdir(folder / "out")) == ["prepare.json", "videos"]
            and all(probe(path).frames == 90 for path in whole)
        )
        subprocess.run(["mount", "-o", "remount,size=20m", folder], check=True)
        done = shell(*words)
        assert (
            done.returncode == 0
            and f"{72 - len(whole)} videos copied, {len(whole)} there already" in done.stdout
        )
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_long_film_takes_no_more_memory(tmp_path):
    """6,000 frames, which would fill 600 MB, against 300."""
    code = "import resource, sys; from memdpc.data.prepare import make_copy; "
    code += "make_copy(sys.argv[1], sys.argv[2], 160, 18); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    took = []
    for frames in (300, 6000):
        path = tmp_path / f"{frames}.mp4"
        write_video(
            path,
            np.broadcast_to(numbered(1, 240, 320), (frames, 240, 320, 3)),
            options={"preset": "ultrafast", "g": "250"},
        )
        took.append(
            int(
                subprocess.run(
                    [sys.executable, "-c", code, path, tmp_path / "copy"],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
        )
    assert took[1] - took[0] < 30_000  # kilobytes


@pytest.mark.slow
def test_every_command_reads_a_copy(tmp_path):
    """`scan` finds all 32 videos, and `pretrain` takes a step."""
    root, out = write_shapes(tmp_path / "shapes", 4, num_workers=2), tmp_path / "out"
    prepare(job(root, out, dataset="ucf101", short_side=32))
    scan = subprocess.run(
        [sys.executable, "-m", "memdpc", "scan", "--dataset", "ucf101", "--root", out],
        capture_output=True,
        text=True,
    )
    assert scan.returncode == 0 and "32" in scan.stdout, scan.stderr
    words = [
        "--preset",
        "demo",
        "--dataset",
        "ucf101",
        "--max_steps",
        "1",
        "--img_size",
        "32",
        "--num_blocks",
        "4",
        "--num_workers",
        "0",
        "--batch_size",
        "2",
        "--mem_size",
        "16",
    ]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "memdpc",
            "pretrain",
            *words,
            "--root",
            out,
            "--out",
            tmp_path / "run",
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
