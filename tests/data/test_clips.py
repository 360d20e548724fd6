"""Clips that are the same in every process, by frames and by time: starts, padding, lost files."""

import json
import logging
import pickle
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memdpc.base.config import PretrainConfig, ScanConfig, config_differences
from memdpc.base.errors import DatasetError
from memdpc.data import clips as clips_module
from memdpc.data.clips import (
    Clips,
    Even,
    Every,
    Random,
    clip_places,
    frames_at,
    is_short,
    last_place,
    read_clip,
    room,
    span,
)
from memdpc.data.video import VideoInfo, centre_crop, frame_times, probe, read_frames, write_video
from memdpc.data.videos import load_dataset


def numbered(frames, side=16):
    """Frames that carry their number: uint8 [T, H, W, 3].

    The left half tells how many times 32, the right half the rest.
    """
    index = np.arange(frames)[:, None, None, None]
    left = np.arange(side)[:, None] < side // 2
    return np.broadcast_to(
        np.where(left, index // 32 * 15, index % 32 * 7) + 8, (frames, side, side, 3)
    ).astype(np.uint8)


def number(picture):
    """The number that a frame [H, W, 3] of 16 pixels carries."""
    coarse, fine = picture[:, 1:7].mean() - 8, picture[:, 9:15].mean() - 8
    return 32 * round(coarse / 15) + round(fine / 7)


def video(path, frames=8, fps=25):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(
        path, numbered(frames), fps=fps, codec="ffv1", options={}, pix_fmt="bgr0"
    )  # without loss
    return path


def write_uneven(path, times):
    """A file whose frame i is shown at `times[i]`, in whole milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"g": "12", "crf": "5", "mbtree": "0"}
        )
        stream.height, stream.width, stream.codec_context.time_base = 16, 16, Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        for time, array in zip(times, numbered(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def tree(tmp_path):
    """Two classes of three videos of 8 frames."""
    for name in ("Archery", "Biking"):
        for group in 1, 2, 3:
            video(tmp_path / "videos" / name / f"v_{name}_g{group:02d}_c01.avi")
    return tmp_path / "videos"


def load(root):
    return load_dataset("folder", root, progress=False)


def info(frames, fps=25.0, times=()):
    return VideoInfo(frames, 16, 16, fps, "mpeg4", times=times)


class Listed:
    """Videos that no file stands behind, for clips of which only the places are asked."""

    def __init__(self, infos):
        self.videos = [type("Video", (), {"info": entry})() for entry in infos]

    def __len__(self):
        return len(self.videos)


def starts_of(clips, number, epoch=0):
    """Where the clips of a video begin, as `read_clip` finds them."""
    limit = max(room(clips, clips.videos.videos[number].info), 0)
    indices = range(clips.first[number], clips.first[number + 1])
    return [
        clips.starts.start(clips, limit, which, np.random.default_rng([clips.seed, epoch, index]))
        for which, index in enumerate(indices)
    ]


SAMPLERS = st.sampled_from([Random(), Even(1), Even(2), Even(7), Every(), Every(1), Every(13)])


# ---- both axes: within the video, padded by the stated rule


@given(
    frames=st.integers(1, 400),
    blocks=st.integers(1, 9),
    length=st.integers(1, 6),
    stride=st.integers(1, 9),
    fps=st.sampled_from([0, 10, 24, 29.97, 60]),
    time_stride=st.sampled_from([None, 0.01, 0.04, 0.1, 0.2, 1.0]),
    starts=SAMPLERS,
    seed=st.integers(0, 2**31),
    uneven=st.booleans(),
)
def test_clips_stay_within_their_video(
    frames, blocks, length, stride, fps, time_stride, starts, seed, uneven
):
    """Whole clips lie within the video.

    A video is short exactly where a clip starts at 0 and has a block that is not valid.
    """
    times = ((0, 0.0), (frames - 1, (frames - 1) / 50)) if uneven and frames > 1 else ()
    entry = info(frames, 50 if times else fps, times)
    clips = Clips(
        Listed([entry]), blocks, length, stride, seed=seed, starts=starts, time_stride=time_stride
    )
    shown, half = frame_times(entry), 0.5 / (50 if times else fps or 25)
    for start in starts_of(clips, 0):
        places = clip_places(clips, start)
        taken = frames_at(clips, entry, places)
        valid = places[length - 1 :: length] <= last_place(clips, entry)
        assert (
            len(taken) == blocks * length
            and taken.min() >= 0
            and taken.max() < frames
            and (np.diff(taken) >= 0).all()
            and start >= 0
        )
        if is_short(clips, entry):
            assert (
                start == 0
                and taken[-1] == frames - 1
                and not valid[-1]
                and (np.diff(valid.astype(int)) <= 0).all()
            )
        else:
            assert valid.all() and (time_stride or (np.diff(taken) == stride).all())
            assert not time_stride or time_stride * (len(places) - 1) <= shown[-1] + half + 1e-9
        if time_stride:
            inside = places <= last_place(clips, entry)
            assert (abs(shown[taken] - places)[inside] <= half * 1.02 + 1e-9).all() and (
                taken[~inside] == frames - 1
            ).all()


def test_shortness_has_one_rule_for_clips_and_configs():
    """118 frames are a whole clip of the paper's, by frames and at 30 fps by tenths of a second."""
    for sizes in Clips(Listed([])), ScanConfig(), PretrainConfig():
        assert [is_short(sizes, info(n)) for n in (1, 117, 118, 119)] == [True, True, False, False]
    for stride, fps in (0.1, 30), (0.12, 25), (0.05, 60), (3003 / 30000, 30000 / 1001):
        sizes = ScanConfig(time_stride=stride)
        assert [is_short(sizes, info(n, fps)) for n in (116, 117, 118, 119)] == [
            True,
            True,
            False,
            False,
        ]
    assert span(Clips(Listed([]))) == 118 and span(
        Clips(Listed([]), time_stride=0.1)
    ) == pytest.approx(3.9)


# ---- starts


@given(
    limit=st.integers(0, 600),
    count=st.integers(1, 9),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 9),
    index=st.integers(0, 10**6),
)
def test_starts_by_frames_are_those_of_older_runs(limit, count, seed, epoch, index):
    """2026-11: runs made before there were samplers continue with the same clips."""
    clips, rng = Clips(Listed([])), np.random.default_rng([seed, epoch, index])
    assert Random().start(
        clips, limit, 0, np.random.default_rng([seed, epoch, index])
    ) == rng.integers(limit + 1)
    old = [
        limit // 2 if count == 1 else round(limit * which / (count - 1)) for which in range(count)
    ]
    assert [Even(count).start(clips, limit, which, None) for which in range(count)] == old


@given(
    frames=st.lists(st.integers(1, 700), min_size=1, max_size=9),
    step=st.sampled_from([None, 1, 7, 59, 300]),
)
def test_windows_are_a_loop(frames, step):
    """Every window of a naive loop over all videos, in its order; a short video has one."""
    clips = Clips(Listed(map(info, frames)), starts=Every(step))
    wanted = []
    for number, length in enumerate(frames):
        start = 0
        while start == 0 or start + 118 <= length:
            wanted.append((number, start))
            start += step or 59
    assert len(clips) == len(wanted)
    assert [
        (number, start) for number in range(len(frames)) for start in starts_of(clips, number)
    ] == wanted
    assert [clips.locate(index)[0] for index in range(len(clips))] == [
        number for number, _ in wanted
    ]
    assert [clips.locate(index)[1] for index in clips.first[:-1]] == [0] * len(frames)


def test_known_windows():
    """The paper's: 118 frames, every 59; up to 58 frames at the end are not covered."""

    def starts(frames, **more):
        return starts_of(Clips(Listed([info(frames)]), starts=Every(), **more), 0)

    assert (
        starts(300) == [0, 59, 118, 177]
        and starts(177) == [0, 59]
        and starts(176) == starts(118) == starts(40) == starts(1) == [0]
    )
    assert starts(300, time_stride=0.12) == pytest.approx([0, 2.34, 4.68, 7.02])
    with pytest.raises(ValueError, match="positive"):
        Every(0)


@pytest.mark.parametrize("fps", [24, 25, 29.97, 30, 60])
def test_moving_window_over_a_mishap(fps):
    """Oops!: steps of 1 s, five frames each, windows every quarter of a second, at any rate."""
    clips = Clips(
        Listed([info(round(10 * fps), fps), info(round(2.5 * fps), fps)]),
        4,
        5,
        starts=Every(0.25),
        time_stride=0.2,
    )
    assert starts_of(clips, 0) == [
        0.25 * i for i in range(25)
    ]  # the last: 6.0 s, its last frame at 9.8 s
    places = clip_places(clips, 6.0).reshape(4, 5)  # [N, T]
    assert np.allclose(places, 6 + np.arange(4)[:, None] + 0.2 * np.arange(5))
    entry = clips.videos.videos[0].info
    assert abs(frame_times(entry)[frames_at(clips, entry, places)] - places).max() <= 0.5001 / fps
    assert starts_of(clips, 1) == [0]
    valid = clip_places(clips, 0).reshape(4, 5)[:, -1] <= last_place(
        clips, clips.videos.videos[1].info
    )
    assert valid.tolist() == [
        True,
        True,
        False,
        False,
    ]  # 2.5 s are two whole steps: the third is marked


@settings(max_examples=12)
@given(frames=st.integers(121, 200), stride=st.integers(1, 3))
def test_every_frame_has_its_turn(frames, stride):
    """Some start takes each frame, the last included (the released code never saw three)."""
    clips = Clips(Listed([info(frames)]), 8, 5, stride)
    limit = room(clips, clips.videos.videos[0].info)
    assert set().union(*(clip_places(clips, start).tolist() for start in range(limit + 1))) == set(
        range(frames)
    )
    assert {start for epoch in range(9 * limit + 9) for start in starts_of(clips, 0, epoch)} <= set(
        range(limit + 1)
    )


def test_starts_in_seconds_are_uniform_in_time():
    """As many starts in each half of the time, though the first has three times the frame rate."""
    entry = info(400, 400 / 12, ((0, 0.0), (300, 6.0), (399, 11.94)))
    clips = Clips(Listed([entry]), 2, 2, time_stride=0.01)
    starts = np.array([starts_of(clips, 0, epoch)[0] for epoch in range(2000)])
    assert abs((starts < 6).mean() - 0.5) < 0.05 and starts.max() <= room(clips, entry) < 12


# ---- real files

LENGTHS = 1, 29, 117, 118, 119, 120, 121, 500


def test_every_length_is_used(tmp_path, caplog):
    """2026-11: the released code dropped videos of up to 120 frames, where 118 are needed.

    Here all are used, and those padded are named.
    """
    from memdpc.training.pretrain import clips_from, log_videos

    for frames in LENGTHS:
        video(tmp_path / "f" / f"{frames:03d}.avi", frames)
    videos = load(tmp_path / "f")
    config = PretrainConfig(encoder="tiny", img_size=16)
    for clips in (
        clips_from(config, videos, training=False),
        Clips(videos, img_size=16),
        Clips(videos, img_size=16, starts=Every()),
    ):
        assert len(clips) == 8 + 6 * (clips.starts == Every()) and span(clips) == 118
        for number, entry in enumerate(videos.videos):
            item, length = clips[int(clips.first[number])], entry.info.frames
            clip, start = item["clip"], item["start"]
            assert (
                clip.shape == (8, 3, 5, 16, 16)
                and clip.dtype == np.uint8
                and clip.flags.c_contiguous
            )
            seen = [number_in(clip, n, t) for n, t in np.ndindex(8, 5)]
            real = [start + 3 * k < length for k in range(40)]
            assert [found for found, is_real in zip(seen, real) if is_real] == [
                start + 3 * k for k in range(40) if real[k]
            ]
            last = read_frames(videos.path(number), [length - 1], 16)[0].transpose(2, 0, 1)
            assert all(
                (clip[n, :, t] == last).all() for n, t in np.ndindex(8, 5) if not real[5 * n + t]
            )
            assert item["valid"].tolist() == [
                all(real[5 * n : 5 * n + 5]) for n in range(8)
            ] and all(real) == (length >= 118)
    caplog.set_level(logging.INFO)
    log_videos(
        videos,
        clips,
        np.zeros(0).view(type("Model", (np.ndarray,), {"parameters": lambda self: []})),
    )
    assert "8 videos to train on (3 shorter than a clip of 118 frames" in caplog.text
    assert [line.split(": ")[1] for line in caplog.messages if line.startswith("padded")] == [
        "001.avi",
        "029.avi",
        "117.avi",
    ]


def number_in(clip, n, t):
    return number(clip[n, :, t].transpose(1, 2, 0))


def test_a_long_list_of_padded_videos_is_cut(tmp_path, caplog):
    """Twenty names, then a count and where to find the rest; by time the length is in seconds."""
    from memdpc.training.pretrain import clips_from, log_videos

    data = video(tmp_path / "f/00.avi", 30).read_bytes()
    for i in range(1, 23):
        (tmp_path / f"f/{i:02d}.avi").write_bytes(data)
    caplog.set_level(logging.INFO)
    config = PretrainConfig(encoder="tiny", img_size=16, time_stride=0.1)
    log_videos(
        load(tmp_path / "f"),
        clips_from(config, load(tmp_path / "f")),
        type("Model", (), {"parameters": list})(),
    )
    assert "23 shorter than a clip of 3.9 seconds" in caplog.text
    lines = [line for line in caplog.messages if line.startswith("padded")]
    assert len(lines) == 21 and lines[-1] == "padded: 3 more; memdpc scan lists all"


def write_rates(root):
    """The same five seconds at 25, 30 and 60 fps, and by a phone, 12 to 40 ms a frame.

    Gives `{name: true times of its frames}`.
    """
    uneven = np.cumsum(np.random.default_rng(0).integers(12, 40, 192)) / 1000
    times = {f"{fps}.mp4": np.arange(5 * fps) / fps for fps in (25, 30, 60)} | {
        "uneven.mp4": uneven - uneven[0]
    }
    for name, shown in times.items():
        write_uneven(root / name, shown)
    return times


def test_time_stride_shows_the_same_moments_at_every_rate(tmp_path):
    """The same moments of a 60 fps phone video and a 25 fps film, within half a frame of each."""
    times = write_rates(tmp_path / "f")
    videos = load(tmp_path / "f")
    clips = Clips(videos, 8, 5, img_size=16, time_stride=0.1)
    for number, entry in enumerate(videos.videos):
        shown = times[entry.path]
        assert bool(entry.info.times) == (entry.path == "uneven.mp4") and entry.info.frames == len(
            shown
        )
        for epoch in range(4):
            item = clips[epoch, number]
            moments = item["start"] + 0.1 * np.arange(40)
            frames = np.array([number_in(item["clip"], n, t) for n, t in np.ndindex(8, 5)])
            gaps = np.diff(shown, append=shown[-1] + np.diff(shown).mean())
            slack = (
                0.5 * np.maximum(gaps[np.maximum(frames - 1, 0)], gaps[frames])
                + 0.1 * gaps.mean()
                + 0.001
            )
            assert (abs(shown[frames] - moments) <= slack).all() and item["valid"].all()
    at_25, at_60 = (
        [item["start"] for item in (clips[epoch, number] for epoch in range(4))]
        for number in (0, 2)
    )
    assert len(set(at_25)) == 4 and at_25 != at_60  # each index has draws of its own


def test_without_a_rate_there_is_the_usual_one(tmp_path):
    """A raw stream does not tell its rate: 25 frames a second are assumed, and nothing breaks."""
    path = video(tmp_path / "f/x.avi", 60)
    videos = load(tmp_path / "f")
    entry = replace(videos.videos[0], info=replace(probe(path), fps=0.0))
    clips = Clips(
        type(
            "List",
            (),
            {
                "videos": [entry],
                "root": videos.root,
                "path": lambda self, i: path,
                "__len__": lambda self: 1,
            },
        )(),
        2,
        5,
        img_size=16,
        time_stride=0.2,
        starts=Even(),
    )
    item = clips[0]
    assert [number_in(item["clip"], n, t) for n, t in np.ndindex(2, 5)] == [
        round(25 * (item["start"] + 0.2 * k) - 1e-6) for k in range(10)
    ]


# ---- an item


class Corner:
    """An augmentation that draws a corner and a flip."""

    def draw(self, rng, width, height, frames):
        flip = bool(rng.random() < 0.5)
        return (
            (int(rng.integers(5)), int(rng.integers(5)), 8, 6),
            flip,
            {"colour": rng.random((frames, 5), np.float32)},
        )


@pytest.mark.parametrize(
    "more", [{}, {"starts": Even(2)}, {"starts": Every(1)}, {"time_stride": 0.03}], ids=str
)
def test_clips_are_the_same_in_every_order_and_process(tree, more):
    """Backwards, from a pickled copy, from workers: bit for bit the same items."""
    from torch.utils.data import DataLoader

    clips = Clips(load(tree), 2, 2, 1, 12, seed=3, augment=Corner(), **more)
    keys = [(epoch, index) for epoch in (0, 5) for index in (4, 0, 5, 1)]
    alone = {key: clips[key] for key in keys}
    for num_workers in (0, 1, 2) if not more else (2,):
        loader = DataLoader(
            pickle.loads(pickle.dumps(clips)),
            sampler=keys[::-1],
            batch_size=None,
            num_workers=num_workers,
        )
        loaded = dict(zip(keys[::-1], loader, strict=True))
        for key, item in alone.items():
            assert all(np.array_equal(item[name], loaded[key][name]) for name in item)
    assert any((alone[0, i]["clip"] != alone[5, i]["clip"]).any() for i in (4, 0, 5, 1))
    assert any(
        (alone[0, 0]["clip"] != replace(clips, seed=seed)[0, 0]["clip"]).any()
        for seed in range(4, 9)
    )


def test_an_item_is_what_it_says(tree):
    """Start, then crop and flip and colours, from one generator: the order of older runs."""
    clips = Clips(load(tree), 2, 2, 2, 12, seed=3, augment=Corner())
    for index in range(6):
        rng = np.random.default_rng([3, 7, index])
        start = rng.integers(8 - 7 + 1)
        crop, flip, extra = Corner().draw(rng, 16, 16, 4)
        frames = read_frames(clips.videos.path(index), start + 2 * np.arange(4), 12, crop)
        frames = frames[:, :, ::-1] if flip else frames
        item = clips[7, index]
        assert all(
            (item["clip"][n, :, t] == frames[2 * n + t].transpose(2, 0, 1)).all()
            for n in range(2)
            for t in range(2)
        )
        assert (
            (item["colour"] == extra["colour"]).all()
            and item["label"] == index // 3
            and item["index"] == index
            and item["broken"] == 0
        )
        assert item["start"] == start and item["valid"].tolist() == [True, True]


@pytest.mark.parametrize("time_stride", [None, 0.04])
def test_items_make_batches(tree, time_stride):
    """A batch of clips with starts, marks and labels, as the default collation makes it."""
    from torch.utils.data import DataLoader

    clips = Clips(load(tree), 2, 5, 1, 12, starts=Even(2), time_stride=time_stride)
    batch = next(iter(DataLoader(clips, batch_size=12)))
    assert batch["clip"].shape == (12, 2, 3, 5, 12, 12) and batch["clip"].is_contiguous()
    assert (
        batch["valid"].tolist() == [[True, False]] * 12 and batch["start"].tolist() == [0] * 12
    )  # 8 frames, 10 wanted
    assert str(batch["start"].dtype) == ("torch.float64" if time_stride else "torch.int64")
    assert (
        batch["label"].tolist() == [0] * 6 + [1] * 6
        and batch["index"].tolist() == list(range(12))
        and not batch["broken"].any()
    )


def test_without_augmentation_the_crop_is_the_central_square(tmp_path):
    write = np.random.default_rng(0).integers(0, 255, (4, 20, 36, 3), dtype=np.uint8)
    (tmp_path / "f").mkdir()
    write_video(tmp_path / "f/wide.avi", write, codec="mpeg4", options={})
    clip = Clips(load(tmp_path / "f"), 2, 2, 1, 20)[0]["clip"]
    whole = read_frames(tmp_path / "f/wide.avi", range(4), 20, crop=(8, 0, 20, 20))
    assert (clip.transpose(0, 2, 3, 4, 1).reshape(whole.shape) == whole).all()
    assert centre_crop(5, 8) == (0, 1, 5, 5) and centre_crop(1, 1) == (0, 0, 1, 1)


def test_uniform_clips(tree):
    clips = Clips(load(tree), 2, 2, 1, 16, starts=Even(3))
    assert len(clips) == 18 and [clips[i]["label"] for i in range(18)] == [0] * 9 + [1] * 9
    assert (
        [number_in(clips[i]["clip"], 0, 0) for i in range(3)]
        == [clips[i]["start"] for i in range(3)]
        == [0, 2, 4]
    )
    assert (clips[0, 5]["clip"] == clips[9, 5]["clip"]).all()
    with pytest.raises(IndexError):
        clips[18]
    assert len(list(clips)) == 18


# ---- files lost in mid-run


def test_files_lost_in_mid_run(tree, caplog):
    videos = load(tree)
    clips = Clips(videos, 2, 2, 1, 16)
    for i in 1, 2:
        videos.path(i).unlink() if i == 1 else videos.path(i).write_bytes(b"junk")
    item = clips[0, 1]
    assert (item["broken"], item["index"], item["label"]) == (1, 1, videos.videos[3].label) and (
        item["clip"] == clips[0, 3]["clip"]
    ).all()
    assert "no such file" in caplog.text
    for i in range(6):
        videos.path(i).write_bytes(b"junk")
    with pytest.raises(DatasetError, match="cannot be read any more"):
        clips[0, 0]


def test_a_lost_video_of_many_windows_does_not_end_the_run(tmp_path, monkeypatch):
    """2026-11: a hundred tries went to the windows of one lost video, which may have more."""
    for name, frames in ("a", 250), ("b", 9), ("c", 9):
        video(tmp_path / f"f/{name}.avi", frames)
    clips = Clips(load(tmp_path / "f"), 2, 2, 1, 16, starts=Every(1))
    assert len(clips) == 247 + 6 + 6
    (tmp_path / "f/a.avi").unlink()
    asked = []
    monkeypatch.setattr(
        clips_module, "read_clip", lambda *args: asked.append(args[2]) or read_clip(*args)
    )
    item = clips[5]
    assert (
        asked == [5, 247]
        and item["broken"] == 1
        and item["index"] == 5
        and (item["clip"] == clips[247]["clip"]).all()
    )


# ---- in the jobs


def test_time_stride_goes_from_the_run_to_its_measurements(tmp_path):
    """A run strides by time; its features do the same unless told otherwise.

    An older run, without such a field, goes by frames.
    """
    from memdpc.base.config import FeaturesConfig
    from memdpc.evaluation.features import strides

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    asked = {"as the run": {}, "by frames": {"frame_stride": 2}, "by time": {"time_stride": 0.1}}
    for saved, wanted in (
        ({"frame_stride": 4, "time_stride": 0.2}, (4, 0.2)),
        ({"frame_stride": 4}, (4, None)),
    ):
        (run / "config.json").write_text(json.dumps(saved))
        found = {
            name: tuple(strides(FeaturesConfig(checkpoint=str(run), **more)).values())
            for name, more in asked.items()
        }
        assert found == {"as the run": wanted, "by frames": (2, None), "by time": (3, 0.1)}
    assert tuple(strides(FeaturesConfig(checkpoint="random")).values()) == (3, None)
    old = asdict(PretrainConfig())
    (run / "config.json").write_text(
        json.dumps({name: value for name, value in old.items() if name != "time_stride"})
    )
    assert not config_differences(
        PretrainConfig(), run / "config.json"
    )  # so that an old run goes on


def test_pretraining_by_time(tmp_path):
    """Two steps and a look at what is held out, on videos of four rates."""
    from memdpc.training.pretrain import pretrain

    write_rates(tmp_path / "f")
    config = PretrainConfig(
        dataset="folder",
        root=str(tmp_path / "f"),
        out=str(tmp_path / "run"),
        encoder="tiny",
        img_size=32,
        num_blocks=4,
        block_len=2,
        pred_steps=1,
        mem_size=8,
        time_stride=0.15,
        batch_size=1,
        epochs=1,
        max_steps=2,
        val_fraction=0.25,
        num_workers=0,
        device="cpu",
    )
    assert pretrain(config)["steps"] == 2
    assert json.loads(Path(tmp_path / "run/config.json").read_text())["time_stride"] == 0.15


def test_features_of_windows_are_averaged_over_each_video(tmp_path):
    """Videos with 1, 3 and 6 windows: each video's features are the mean of its own."""
    import torch

    from memdpc.evaluation.features import compute_features, mean_image

    for name, frames in ("a", 4), ("b", 6), ("c", 9):
        video(tmp_path / f"f/{name}.avi", frames)
    clips = Clips(load(tmp_path / "f"), 2, 2, 1, 16, starts=Every(1))
    assert np.diff(clips.first).tolist() == [1, 3, 6]
    blocks = compute_features({"pixels": mean_image}, clips, batch_size=4)["pixels"].blocks
    each = [mean_image(torch.from_numpy(clips[i]["clip"])[None])[0][0].numpy() for i in range(10)]
    assert blocks.dtype == np.float32
    np.testing.assert_allclose(
        blocks, [each[0], np.mean(each[1:4], 0), np.mean(each[4:], 0)], atol=1e-6
    )


@pytest.mark.parametrize(
    "wrong",
    [
        dict(num_blocks=0),
        dict(block_len=0),
        dict(frame_stride=0),
        dict(frame_stride=-2),
        dict(img_size=0),
        dict(time_stride=-1.0),
        dict(time_stride=0.0),
    ],
)
def test_sizes_that_no_clip_has(wrong):
    """Refused where they are given, not where a clip is read."""
    with pytest.raises(ValueError):
        Clips(None, **wrong)
    with pytest.raises(ValueError):
        Even(0)
