"""The embedded dataset: how it is drawn, that only motion tells its classes, and its folder."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trees import alive

from memdpc.base.errors import ConfigError, MemdpcError
from memdpc.base.files import PART
from memdpc.data import shapes
from memdpc.data._dataset_folder import claim
from memdpc.data.mishaps import mishap_lists, plan, render_mishap, write_mishaps
from memdpc.data.shapes import (
    ACTIONS,
    FRAMES,
    GROUPS,
    SIDE,
    VELOCITIES,
    members,
    render,
    split_files,
    video_name,
    write_shapes,
)
from memdpc.data.video import probe, read_frames


def contents(root):
    """{relative path: bytes} of every file below a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Five videos a class, written by one process."""
    return write_shapes(tmp_path_factory.mktemp("shapes") / "small", videos_per_class=5, seed=3)


# ---- what is drawn


def test_render_is_a_pure_function_of_its_arguments():
    """2026-11: with a shared generator, videos depend on the order in which they are drawn."""
    first = render("DashUp", 7, 2, 3)
    render("DriftLeft", 7, 2, 3)
    assert first.dtype == np.uint8 and first.shape == (FRAMES, SIDE, SIDE, 3)
    assert np.array_equal(first, render("DashUp", 7, 2, 3))
    others = [
        render(*drawn)
        for drawn in (
            ("DashUp", 8, 2, 3),
            ("DashUp", 7, 3, 3),
            ("DashUp", 7, 2, 4),
            ("DashDown", 7, 2, 3),
        )
    ]
    assert not any(np.array_equal(first, other) for other in others)
    assert render("DashUp", frames=7, side=32).shape == (7, 32, 32, 3)
    with pytest.raises(ValueError, match="no action 'Jump'"):
        render("Jump")


def test_groups_share_their_figure_and_all_figures_occur():
    figures = {shapes.group_figure(0, group) for group in range(1, GROUPS + 1)}
    assert figures == set(shapes.FIGURES)


def test_figures_cover_the_same_area():
    """A figure of another area would be another brightness."""
    x, y = np.meshgrid(*[(np.arange(400) + 0.5) / 400 - 0.5] * 2)
    areas = [(shapes.distance(figure, x, y) < 0).mean() for figure in shapes.FIGURES]
    assert np.allclose(areas, np.pi * shapes.RADIUS**2, rtol=0.02)


def test_at_least_eight_actions_in_opposite_pairs():
    """For every action one that goes the other way: a mean over time cannot tell the two apart."""
    assert len(ACTIONS) == len(set(VELOCITIES.values())) >= 8
    assert {(-x, -y) for x, y in VELOCITIES.values()} == set(VELOCITIES.values())


# ---- what tells the class


@pytest.fixture(scope="module")
def drawn():
    """(grey [V, T, H/4, W/4], labels [V], whether it tests [V]) of 384 videos.

    Those that test are of other groups.
    """
    videos = [
        (action, 1, group, clip)
        for action in ACTIONS
        for group in range(1, 17)
        for clip in range(1, 4)
    ]
    grey = np.stack(
        [
            render(*video)[..., 1]
            .reshape(FRAMES, SIDE // 4, 4, SIDE // 4, 4)
            .mean((2, 4), dtype=np.float32)
            for video in videos
        ]
    )
    return (
        grey,
        np.array([ACTIONS.index(video[0]) for video in videos]),
        np.array([video[2] > 10 for video in videos]),
    )


def accuracy(features, labels, test):
    features = np.reshape(features, (len(labels), -1))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200)).fit(
        features[~test], labels[~test]
    )
    return probe.score(features[test], labels[test])


def motion(video):
    """How well each action's velocity takes a video's frames to later ones: [actions]."""
    frames = video / video.mean((1, 2), keepdims=True)  # the lamp is divided away
    spectrum = np.fft.fft2(frames - frames.mean((1, 2), keepdims=True))
    correlation = np.fft.ifft2(
        (spectrum[3:] * spectrum[:-3].conj()).mean(0)
    ).real  # three frames apart: a drift is two pixels of 16
    side = len(correlation)
    return [
        correlation[round(3 * y * side) % side, round(3 * x * side) % side]
        for x, y in VELOCITIES.values()
    ]


def test_only_motion_tells_the_class(drawn):
    """Not a single frame, not its brightness. Chance is 0.125; four deviations above it, 0.24."""
    grey, labels, test = drawn
    for frame in 0, FRAMES // 2, FRAMES - 1:
        assert accuracy(grey[:, frame], labels, test) < 0.24
    assert (
        accuracy(np.sort(grey[:, FRAMES // 2].reshape(len(labels), -1)), labels, test) < 0.24
    )  # all of a frame but where things are
    assert accuracy(grey.mean(1), labels, test) < 0.5  # opposite headings leave the same trace
    assert np.mean(np.argmax([motion(video) for video in grey], 1) == labels) > 0.95


def test_the_probe_on_single_frames_is_able_to_fail(drawn):
    """The test above, tested: where two classes have a mark in the corner, it is noticed."""
    grey, labels, test = drawn
    frame = grey[:, FRAMES // 2].copy()
    frame[labels == 0, 0, 0] = 255
    frame[labels == 1, 0, 1] = 255
    assert accuracy(frame, labels, test) > 0.24


# ---- the files


@pytest.mark.parametrize("videos_per_class", [4, 5, 31, 160])
def test_three_splits_by_group(videos_per_class):
    files = split_files(videos_per_class)
    assert files["classInd.txt"].split() == [
        word for number, action in enumerate(ACTIONS, 1) for word in (str(number), action)
    ]
    everything = sorted(video_name(*member) for member in members(videos_per_class))
    assert len(everything) == len(set(everything)) == 8 * videos_per_class
    tested = []
    for split in 1, 2, 3:
        train, test = (
            files[f"{subset}list{split:02d}.txt"].splitlines() for subset in ("train", "test")
        )
        assert sorted([line.split()[0] for line in train] + test) == everything
        assert all(int(line.split()[1]) == ACTIONS.index(line.split("/")[0]) + 1 for line in train)
        in_train, in_test = ({line.split("_g")[1][:2] for line in lines} for lines in (train, test))
        assert in_train and in_test and not in_train & in_test
        assert (
            {line.split("/")[0] for line in train}
            == {line.split("/")[0] for line in test}
            == set(ACTIONS)
        )
        tested.append(in_test)
    assert not set.intersection(*tested)


def test_files_show_what_was_rendered(small):
    path = small / "videos" / video_name("DashLeft", 2, 1)
    info = probe(path)
    assert (info.frames, info.width, info.height, info.codec) == (FRAMES, SIDE, SIDE, "h264")
    read = read_frames(path, range(FRAMES)).astype(float)
    assert np.abs(read - render("DashLeft", 3, 2, 1)).mean() < 6


def test_bytes_do_not_depend_on_processes(small, tmp_path):
    """2026-11: encoders with threads, and workers that share a generator, write other bytes."""
    again = write_shapes(tmp_path / "again", videos_per_class=5, seed=3, num_workers=3)
    assert contents(again) == contents(small)
    assert len(contents(small)) == 40 + 7 + 1


def test_other_seed_other_videos(small, tmp_path):
    other = write_shapes(tmp_path / "other", videos_per_class=4, seed=4)
    name = "videos/" + video_name("DashUp", 1, 1)
    assert contents(other)[name] != contents(small)[name]


def test_a_second_call_does_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert write_shapes(small, videos_per_class=5, seed=3) == small
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_an_interrupted_folder_is_completed(small, tmp_path, monkeypatch):
    """Stopped in the midst of it, with a half-written file left by a kill, then called again."""
    calls = []
    write = shapes.write_video

    def stop_after_ten(*args, **options):
        calls.append(args)
        if len(calls) > 10:
            raise KeyboardInterrupt
        write(*args, **options)

    monkeypatch.setattr(shapes, "write_video", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "torn", videos_per_class=5, seed=3)
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("*.mp4"))) == 10
    left = tmp_path / "torn/videos" / ACTIONS[-1] / f".0123456789abcdef{PART}"
    left.mkdir(parents=True)
    (left / "v_DashUp_g01_c01.mp4").write_bytes(b"half")
    assert contents(write_shapes(tmp_path / "torn", videos_per_class=5, seed=3)) == contents(small)


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda out: (out / "thesis.txt").write_text("mine"),
            "is not empty and holds no dataset of shapes",
        ),
        (
            lambda out: (out / "shapes.json").write_text('{"videos_per_class": 9}'),
            "holds another dataset of shapes",
        ),
        (
            lambda out: (out / "shapes.json").write_bytes(b"\xff{"),
            "holds another dataset of shapes",
        ),
    ],
)
def test_a_folder_that_is_not_ours_is_left_alone(make, said, tmp_path):
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=said) as caught:
        write_shapes(tmp_path, videos_per_class=5)
    assert isinstance(caught.value, MemdpcError) and "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_what_a_kill_left_before_there_was_a_manifest_is_no_hindrance(tmp_path):
    """2026-11: the folder counted as somebody's."""
    (tmp_path / ".0123456789abcdef.part").mkdir()
    (tmp_path / ".0123456789abcdef.part" / "shapes.json").write_text("{")
    claim(tmp_path, {"seed": 0})
    assert list(tmp_path.iterdir()) == [tmp_path / "shapes.json"]


@pytest.mark.parametrize(
    "arguments, said", [(dict(videos_per_class=3), "at least 4"), (dict(seed=-1), "seed")]
)
def test_absurd_sizes_are_refused_before_anything_is_written(arguments, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        write_shapes(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_a_plain_oserror_and_leaves_no_damage(small, tmp_path, monkeypatch):
    """Every file that is there is whole; with room again, the call goes on."""
    synced = []
    sync = os.fsync

    def full(file):
        synced.append(file)
        if len(synced) > 2 * 20:  # a file, and the folder that holds its name
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shapes(tmp_path / "full", videos_per_class=5, seed=3)
    monkeypatch.undo()
    partly = contents(tmp_path / "full")
    whole = contents(small)
    assert len(partly) == 20 and all(whole[name] == data for name, data in partly.items())
    assert contents(write_shapes(tmp_path / "full", videos_per_class=5, seed=3)) == whole


@pytest.mark.parametrize("where", ["file", "below a file"])
def test_a_place_that_cannot_be_a_folder_is_a_plain_oserror(where, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_shapes(
            tmp_path / "file" if where == "file" else tmp_path / "file" / "out", videos_per_class=4
        )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_a_plain_oserror(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write_shapes(tmp_path / "out", videos_per_class=4)


# ---- mishaps


def test_a_mishap_is_a_pure_function_of_its_arguments():
    mishap = plan("Drop", 3, 5)
    first = render_mishap(mishap, 3, 5)
    render_mishap(plan("Slip", 3, 6), 3, 6)
    assert (
        np.array_equal(first, render_mishap(plan("Drop", 3, 5), 3, 5))
        and first.shape == (mishap.frames, 64, 64, 3)
        and first.dtype == np.uint8
    )
    assert not np.array_equal(first, render_mishap(mishap, 3, 6)) and not np.array_equal(
        first, render_mishap(mishap, 4, 5)
    )


def test_lists_of_mishaps_agree():
    """Names are unique, train and val apart, and filtered lists within them.

    The fourth annotator was asked about filtered validation videos alone.
    """
    files = mishap_lists(32, seed=2)
    names = {name[:-4]: text.splitlines() for name, text in files.items() if name.endswith(".txt")}
    times, fourth = (
        json.loads(files[f"{name}.json"])
        for name in ("transition_times", "heldout_transition_times")
    )
    assert (
        len({*names["train"], *names["val"]}) == len(names["train"]) + len(names["val"]) == 128
        and len(names["val"]) == 32
    )
    for part in "train", "val":
        assert set(names[f"{part}_filtered"]) == {
            name for name in names[part] if name in times and times[name]["n_notfound"] < 2
        }
    assert set(fourth) == set(names["val_filtered"]) and set(times) == set(names["val"]) | {
        name for name in names["train"] if name in times
    }
    assert sum(name not in times for name in names["train"]) == len(names["train"]) / 4
    for entry in [*times.values(), *fourth.values()]:
        assert entry["n_notfound"] == entry["t"].count(-1) and all(
            t == -1 or 0 <= t <= entry["len"] for t in entry["t"]
        )
        assert entry["rel_t"] == [t / entry["len"] for t in entry["t"]]
    assert any(set('"#&') & set(name) for name in times) and any(
        not name.isascii() for name in times
    )


def test_mishaps_are_written_whole_and_once(tmp_path):
    root = write_mishaps(tmp_path / "a", 4, seed=1)
    before = contents(root)
    assert len([name for name in before if name.endswith(".mp4")]) == 16
    victim = next(root.rglob("*.mp4"))
    victim.unlink()
    left = victim.parent / f".0123456789abcdef{PART}"
    left.mkdir()
    (left / victim.name).write_bytes(b"half")
    write_mishaps(root, 4, seed=1, num_workers=2)
    assert contents(root) == before
    with pytest.raises(ConfigError, match="another dataset"):
        write_mishaps(root, 4, seed=2)
    for wrong in dict(videos_per_kind=3), dict(seed=-1):
        with pytest.raises(ConfigError):
            write_mishaps(tmp_path / "b", **wrong)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="children are read off /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGHUP", "SIGINT"])
def test_no_process_outlives_a_killed_parent(tmp_path, name):
    """2026-11: the processes of a killed `memdpc shapes` waited for ever."""
    words = ["shapes", "--out", str(tmp_path / "s"), "--videos_per_class", "4000"]
    parent = subprocess.Popen([sys.executable, "-m", "memdpc", *words], preexec_fn=_minds_hangup)
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while len(children := listed.read_text().split()) < 2:
        time.sleep(0.1)
    parent.send_signal(getattr(signal, name))
    parent.wait(120)
    end = time.monotonic() + 120
    while any(map(alive, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, children))


def _minds_hangup():
    """Under `nohup`, which keeps SIGHUP from a program, a job would rightly go on."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
