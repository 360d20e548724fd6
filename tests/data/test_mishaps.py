"""Mishaps: what falls, what gives a failure away, and what annotators say of it."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from memdpc.data.mishaps import (
    GRAVITY,
    KINDS,
    annotate,
    draw_mishap,
    hops,
    plan,
    render_mishap,
    write_mishaps,
)
from memdpc.data.videos import load_dataset


def failing(kind, number=0):
    """The first mishap of a kind from `number` on that fails."""
    plans = (plan(kind, 0, n) for n in range(number, 99))
    return next(mishap for mishap in plans if mishap.when < inf)


def test_what_falls_hops():
    """On the ground after sqrt(2h/g); with a bounce of .7 the next hop is half as high."""
    time = np.linspace(0, 3, 3001)
    height = hops(0.5, time, 0.7)
    ground = time[np.argmax(height < 1e-3)]
    assert abs(height[0] - 0.5) < 1e-6
    assert abs(ground - (2 * 0.5 / GRAVITY) ** 0.5) < 0.005
    assert abs(height[time > ground + 0.1].max() - 0.49 * 0.5) < 0.005


def changed_from(kind):
    """Seconds from the failure at which a video first differs from one without; the median."""
    found = []
    for number in range(0, 40, 8):
        mishap = failing(kind, number)
        phase = mishap.when % mishap.beat if kind == "Miss" else mishap.phase
        calm = replace(mishap, when=inf, phase=phase)
        pictures = np.rint(draw_mishap(mishap)), np.rint(draw_mishap(calm))
        other = (pictures[0] != pictures[1]).any((1, 2, 3))
        found.append(np.argmax(other) / mishap.fps - mishap.when)
    return np.median(found)


def test_nothing_gives_it_away():
    """Drop and slip stay the same up to the failure; the others announce themselves shortly."""
    assert changed_from("Drop") >= 0
    assert changed_from("Slip") >= 0
    assert -0.6 < changed_from("Collision") < 0
    assert -0.35 < changed_from("Miss") < 0


@pytest.mark.parametrize("kind", KINDS)
def test_motion_tells_little(kind):
    """The mean change of pictures after the failure is half to twice that of before."""
    ratios = []
    for number in range(0, 40, 5):
        mishap = failing(kind, number)
        video = np.rint(draw_mishap(mishap))
        change = np.abs(np.diff(video, axis=0)).mean((1, 2, 3))
        before = change[: int((mishap.when - 0.7) * mishap.fps)].mean()
        after = change[int((mishap.when + 1) * mishap.fps) :].mean()
        ratios.append(after / before)
    assert 0.5 < np.mean(ratios) < 2


def test_annotators_disagree_a_little():
    """15 % without a failure; most are within a quarter of a second; some see nothing."""
    plans = [plan(KINDS[n % 4], 1, n) for n in range(400)]
    seen = [annotate(mishap, np.random.default_rng([1, n])) for n, mishap in enumerate(plans)]
    errors = []
    for mishap, times in zip(plans, seen):
        if mishap.when < inf:
            errors += [abs(time - mishap.when) for time in times if time >= 0]
    assert 0.1 < np.mean([mishap.when == inf for mishap in plans]) < 0.2
    assert np.mean(np.array(errors) < 0.25) > 0.93
    assert 0.15 < np.mean([min(times) < 0 < max(times) for times in seen]) < 0.4


def test_other_weather_for_another_number():
    mishap = failing("Slip")
    first = render_mishap(mishap, 0, 3)
    assert (first == render_mishap(mishap, 0, 3)).all()
    assert (first != render_mishap(mishap, 0, 4)).any()


def test_the_loader_reads_them(tmp_path, monkeypatch):
    """24 of 32 are for training, 20 of these have times; a second call writes nothing."""
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    folder = write_mishaps(tmp_path / "data/oops_dataset", videos_per_kind=8)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    write_mishaps(folder, videos_per_kind=8)
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    assert len(times) == 32
    videos = load_dataset("oops", folder.parent, progress=False).videos
    assert len(videos) == 24
    assert sum(bool(video.transitions) for video in videos) == 20
