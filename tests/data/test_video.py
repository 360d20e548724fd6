"""Frames by index: real clips, awkward files, files that are no videos, and what writing leaves."""

import os
import pickle
import re
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memdpc.base.errors import MemdpcError, VideoError
from memdpc.data import _decoding, _seeking, video
from memdpc.data._clock import knots
from memdpc.data.video import decoded_frames, open_video, probe, read_frames, write_video

CLIPS = Path(__file__).resolve().parents[3] / "shared/data/clips"
# name: (frames, width, height, codec, frame indices of the seek points)
REAL = {
    "v_SoccerJuggling_g23_c01.avi": (240, 320, 240, "mpeg4", tuple(range(12, 240, 12))),
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": (72, 560, 240, "mpeg4", ()),
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": (83, 320, 240, "mpeg4", ()),
    "R6llTwEh07w.mp4": (303, 340, 256, "h264", (250,)),
}
X264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3"
# file: (encoder, its options, pixel format, are there seek points)
MADE = {
    "open.mp4": ("libx264", {"x264-params": f"open-gop=1:{X264}"}, "yuv420p", True),
    "open.mkv": ("libx264", {"x264-params": f"open-gop=1:{X264}"}, "yuv420p", True),
    "open.avi": (
        "libx264",
        {"x264-params": f"open-gop=1:{X264}"},
        "yuv420p",
        False,
    ),  # FFmpeg makes its timestamps up
    "closed.mp4": ("libx264", {"x264-params": X264}, "yuv420p", True),
    "raw.h264": ("libx264", {"x264-params": X264}, "yuv420p", False),  # no timestamps at all
    "b.avi": ("mpeg4", {"bf": "2", "g": "12"}, "yuv420p", True),
    "b.ts": (
        "mpeg2video",
        {"bf": "2", "g": "12"},
        "yuv420p",
        False,
    ),  # a seek does not arrive where it should
    "vp9.webm": (
        "libvpx-vp9",
        {"g": "15", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10"},
        "yuv420p",
        True,
    ),
    "open.hevc.mp4": (
        "libx265",
        {"x265-params": "open-gop=1:keyint=12:bframes=3:log-level=none:pools=none"},
        "yuv420p",
        True,
    ),
    "intra.avi": ("mjpeg", {}, "yuvj420p", True),
    "deep.mp4": ("libx264", {"x264-params": X264}, "yuv420p10le", True),
    "gradual.mp4": (
        "libx264",
        {"x264-params": "intra-refresh=1:keyint=12:bframes=3"},
        "yuv420p",
        None,
    ),
    "gif.gif": ("gif", {}, "rgb8", None),
}


def scene(num_frames=60, height=48, width=64, seed=0):
    """Blocks of noise slide under a wave, so that all frames differ: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    blocks = (
        rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3))
        .repeat(8, 0)
        .repeat(8, 1)[:height, :width]
    )
    return np.stack(
        [
            np.clip(
                0.7 * np.roll(blocks, (t, 2 * t), (0, 1)) + 60 * np.sin(t / 3 + x[..., None] / 9),
                0,
                255,
            )
            for t in range(num_frames)
        ]
    ).astype(np.uint8)


def encode(
    path, codec, options, pix_fmt="yuv420p", frames=None, milliseconds=None, orientation=None
):
    """PyAV alone, so that nothing here depends on the writer under test."""
    frames = scene() if frames is None else frames
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=25, options=({"mbtree": "0"} if codec == "libx264" else {}) | options
        )
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.thread_count = 1
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if orientation:
            stream.set_display_rotation(*orientation)
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = int(milliseconds[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def plain(path):
    """Every frame as PyAV gives it: the reference, where it can open the file."""
    with av.open(str(path), metadata_errors="ignore") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decodings(monkeypatch):
    """A list that grows by one for each picture that is decoded from now on."""
    count = []

    def counted(*args):
        for frame in decoded_frames(*args):
            count.append(frame.pts)
            yield frame

    for module in video, _seeking:
        monkeypatch.setattr(module, "decoded_frames", counted)
    return count


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files of MADE, each written when first asked for."""
    folder = tmp_path_factory.mktemp("made")

    def get(name):
        path = folder / name
        return path if path.exists() else encode(path, *MADE[name][:3])

    return get


# ---- the right frame, always


@pytest.mark.parametrize("name", REAL)
def test_real_clips(name):
    path = CLIPS / name
    if not path.exists():
        pytest.skip("no shared clips beside this checkout")
    info, expected = probe(path), REAL[name]
    assert (
        info.frames,
        info.width,
        info.height,
        info.codec,
        tuple(i for i, _ in info.seek_points),
    ) == expected
    assert info.damage == 0 and abs(info.fps - 30) < 0.1
    whole = read_frames(path, range(info.frames))
    assert (whole == plain(path)).all()
    for i in np.random.default_rng(1).integers(0, info.frames, 8):
        assert (read_frames(path, [i], info=info)[0] == whole[i]).all(), f"frame {i}"
    some = np.random.default_rng(2).permutation(info.frames)[:6]
    assert (read_frames(path, some, info=info) == whole[some]).all()


def test_the_real_clips_carry_their_traps():
    """The traps are still in the files: else the test above proves less than it says."""
    if not CLIPS.exists():
        pytest.skip("no shared clips beside this checkout")
    with av.open(str(CLIPS / "RATRACE_wave_f_nm_np1_fr_goo_37.avi")) as container:
        assert container.streams.video[0].frames == 73
    with pytest.raises(UnicodeDecodeError):
        av.open(str(CLIPS / "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"))


@pytest.mark.parametrize("name", MADE)
def test_made_files(made, name):
    path, seekable = made(name), MADE[name][3]
    info = probe(path)
    whole = read_frames(path, range(info.frames))
    assert info.frames == 60 and whole.shape == (60, 48, 64, 3)
    if name != "deep.mp4":  # PyAV's converter places the colours of 10-bit pictures otherwise
        assert (whole == plain(path)).all()
    assert seekable is None or bool(info.seek_points) == seekable
    for i in range(60):
        assert (read_frames(path, [i], info=info)[0] == whole[i]).all(), f"frame {i}"


@pytest.mark.parametrize("name", ["open.mp4", "open.mkv", "open.hevc.mp4"])
def test_open_gops_are_open(made, name):
    """In an open GOP, pictures shown before the keyframe follow it in the file.

    Reading by counting from the keyframe would be off.
    """
    path = made(name)
    leading = 0
    with open_video(path) as (container, stream):
        keys = {packet.pts for packet in container.demux(stream) if packet.is_keyframe}
    with open_video(path) as (container, stream):
        key = None
        for packet in container.demux(stream):
            key = packet.pts if packet.pts in keys else key
            leading += packet.pts is not None and packet.pts < key
    assert leading > 0


def test_a_seek_decodes_a_group_of_pictures_not_the_file(made, monkeypatch):
    path = made("closed.mp4")
    info, whole, count = probe(path), read_frames(path, range(60)), decodings(monkeypatch)
    assert (read_frames(path, [59], info=info)[0] == whole[59]).all()
    assert len(count) <= 12
    count.clear()
    assert (
        read_frames(path, [58, 1, 37], info=info) == whole[[58, 1, 37]]
    ).all()  # three groups, two jumps
    assert len(count) <= 2 + 2 * 12
    count.clear()
    read_frames(path, [59])
    assert len(count) == 60


def test_an_outdated_info_costs_time_but_no_frame(made, tmp_path):
    """The file was replaced since it was probed: its seek points lead nowhere."""
    info = probe(made("closed.mp4"))
    path = encode(
        tmp_path / "other.mp4",
        "libx264",
        {"g": "250"},
        milliseconds=np.arange(60) * 37 + 11,
        frames=scene(seed=3),
    )
    assert (read_frames(path, [50, 20], info=info) == plain(path)[[50, 20]]).all()


def test_keyframes_are_tried_not_believed(made, tmp_path):
    """No seek point where other pictures follow than from the start, or a seek leads past."""
    path = made("closed.mp4")
    whole = read_frames(path, range(60))
    index, pts = probe(path).seek_points[1]
    sums = [_seeking.check_sum(picture) for picture in whole[index : index + 2]]

    def proven(timestamp, expected):
        marks = {index: (timestamp, expected)}
        return list(_seeking.proven_seek_points(path, marks, video.Scaler(shown=(64, 48))))

    assert proven(pts, sums) == [(index, pts)]
    assert not proven(pts, [sums[0], 0])
    assert not proven(pts + 1, sums)
    liar = (
        tmp_path / "liar.mp4"
    )  # without its table of keyframes, an MP4 says that every packet is one
    liar.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    info = probe(liar)
    assert all((read_frames(liar, [i], info=info)[0] == whole[i]).all() for i in range(60))


def test_variable_frame_rate(tmp_path):
    milliseconds = np.cumsum(np.random.default_rng(0).integers(5, 200, 60))
    for name in "vfr.mp4", "vfr.mkv":
        path = encode(tmp_path / name, "libx264", {"g": "12"}, milliseconds=milliseconds)
        info, whole = probe(path), plain(path)
        assert info.frames == 60 and info.seek_points
        assert info.fps == pytest.approx(59_000 / (milliseconds[-1] - milliseconds[0]))
        assert all(
            (read_frames(path, [i], info=info)[0] == whole[i]).all() for i in range(0, 60, 7)
        )


@pytest.mark.parametrize(
    "name,codec,pix_fmt",
    [
        ("odd.mkv", "ffv1", "yuv420p"),
        ("odd.avi", "mjpeg", "yuvj420p"),
        ("odd.mp4", "libx264", "yuv444p"),
    ],
)
def test_odd_sizes(tmp_path, name, codec, pix_fmt):
    path = encode(tmp_path / name, codec, {}, pix_fmt, scene(10, 49, 65))
    info = probe(path)
    assert (info.frames, info.width, info.height) == (10, 65, 49)
    assert (read_frames(path, range(10)) == plain(path)).all()
    assert read_frames(path, [3], size=(31, 17), crop=(3, 5, 33, 43)).shape == (1, 31, 17, 3)
    assert read_frames(path, [3], size=1, crop=(64, 48, 1, 1)).shape == (1, 1, 1, 3)


@pytest.mark.parametrize(
    "orientation",
    [
        *[
            (degrees, mirrored, False)
            for degrees in (0, 90, 180, 270)
            for mirrored in (False, True)
        ],
        (88, False, True),
    ],
)
def test_rotation_flags(tmp_path, orientation):
    """All eight ways to hold a camera; crop and size count in shown pixels."""
    path = encode(
        tmp_path / "r.mp4", "libx264", {"crf": "4"}, frames=scene(3), orientation=orientation
    )
    shown = np.rot90(plain(path), round(orientation[0] / 90), (1, 2))  # anticlockwise
    shown = shown[:, :, ::-1] if orientation[1] else shown
    shown = shown[:, ::-1] if orientation[2] else shown
    info = probe(path)
    assert (info.height, info.width) == shown.shape[1:3]
    assert (read_frames(path, range(3), info=info) == shown).all()
    assert (read_frames(path, [2], crop=(4, 8, 40, 36))[0] == shown[2, 8:44, 4:44]).all()
    assert read_frames(path, [0], size=(20, 30), crop=(4, 8, 40, 36)).shape == (1, 20, 30, 3)


def test_crop_and_scale_agree_with_pillow(tmp_path):
    """As Pillow's bilinear resize, within FFmpeg's approximations, at even and odd crops.

    A crop that is one pixel off is told apart.
    """
    Image = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[:120, :160]
    grey = np.repeat((127 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8)[..., None], 3, 2)
    path = encode(tmp_path / "grey.mkv", "ffv1", {}, frames=grey[None])
    whole = read_frames(path, [0])[0]
    for left, top, width, height in (
        (0, 0, 159, 120),
        (20, 10, 100, 90),
        (21, 11, 101, 91),
        (98, 3, 61, 61),
    ):
        ours = read_frames(path, [0], size=(64, 48), crop=(left, top, width, height))[0]
        decibels = []
        for x in (left, left + 1):
            part = Image.fromarray(whole[top : top + height, x : x + width])
            theirs = np.asarray(part.resize((48, 64), Image.Resampling.BILINEAR), float)
            decibels.append(10 * np.log10(255**2 / np.mean((ours - theirs) ** 2)))
        assert decibels[0] > 40
        assert decibels[1] < 36


@settings(max_examples=200)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=80), st.integers(1, 60))
def test_knots_pass_every_frame(steps, tolerance):
    """Lines between the knots miss no time by more than the tolerance."""
    times = np.cumsum([0, *steps]).tolist()
    found = knots(times, tolerance)
    assert found[0] == (0, 0) and found[-1] == (len(steps), times[-1]) and len(found) <= len(times)
    assert abs(np.interp(range(len(times)), *zip(*found)) - times).max() <= tolerance + 1e-6
    assert len(knots(np.arange(50) * 7, 1)) == 2


def test_times_are_kept_where_the_rate_is_not_constant(tmp_path):
    """A dropped stretch, a jittering clock, a timer that rounds.

    Constant rates need no knots, and every frame's time is right to a tenth of a frame.
    """
    even = np.arange(60) * 40
    gap = even + np.where(np.arange(60) < 30, 0, 1000)
    jitter = np.cumsum(np.random.default_rng(0).integers(5, 200, 60))
    for name, milliseconds, number in (
        ("even.mkv", even, 0),
        ("gap.mp4", gap, 4),
        ("jitter.mkv", jitter, None),
        ("thirty.mkv", np.rint(np.arange(60) * 1000 / 30), 0),
    ):
        info = probe(encode(tmp_path / name, "libx264", {"g": "12"}, milliseconds=milliseconds))
        shown = (milliseconds - milliseconds[0]) / 1000
        assert len(info.times) == number or number is None and len(info.times) > 20
        assert abs(video.frame_times(info) - shown).max() <= 0.1 / info.fps + 0.0011
        assert info.duration == pytest.approx(shown[-1] + 1 / info.fps, abs=0.002)
        assert video.nearest_frames(info, shown).tolist() == list(range(60))
        assert video.nearest_frames(info, [-5, 1e9]).tolist() == [0, 59]
    assert video.nearest_frames(info, np.zeros((2, 3))).shape == (2, 3)


def test_a_file_that_does_not_tell_its_rate_counts_as_25_a_second():
    info = video.VideoInfo(50, 8, 8, 0.0, "h264")
    assert info.duration == 2 and video.nearest_frames(info, [1.0]).tolist() == [25]


def test_planes_and_mirrors(made):
    """With a size, pictures lie in planes, and are mirrored to the bit."""
    path = made("closed.mp4")
    small = read_frames(path, [7, 30], size=(24, 32), crop=(4, 2, 50, 40))
    assert small.shape == (2, 24, 32, 3) and small.transpose(0, 3, 1, 2).flags.c_contiguous
    assert (
        read_frames(path, [7, 30], size=(24, 32), crop=(4, 2, 50, 40), flip=True)
        == small[:, :, ::-1]
    ).all()
    assert (read_frames(path, [7], flip=True) == plain(path)[7:8, :, ::-1]).all()


@pytest.mark.parametrize("width", [48, 64, 100, 130, 200, 212])
def test_planes_of_the_videos_own_size_are_whole(tmp_path, width):
    """2026-11: at some widths FFmpeg's quick way to planes leaves out an unscaled picture's end.

    The last columns were as they had been in memory.
    """
    y, x = np.mgrid[:96, :width]
    smooth = (127 + 100 * np.sin(x / 19 + y / 23))[..., None] + np.array([0, 10, -10])
    path = encode(
        tmp_path / "own.mp4",
        "libx264",
        {"crf": "4"},
        frames=np.stack([smooth.clip(0, 255).astype(np.uint8)] * 3),
    )
    ours, theirs = read_frames(path, [1], size=(96, width))[0].astype(int), plain(path)[1]
    assert abs(ours - theirs).max() < 12 and abs(ours - theirs).mean() < 3
    assert (
        read_frames(path, [1], size=(90, width - 10), crop=(10, 6, width - 10, 90))[0].astype(int)
        - theirs[6:, 10:]
        < 12
    ).all()


def test_one_frame(tmp_path):
    path = encode(tmp_path / "one.mp4", "libx264", {}, frames=scene(1))
    assert probe(path).frames == 1 and not probe(path).seek_points
    assert (read_frames(path, [0, 0, 0], info=probe(path)) == plain(path)[[0, 0, 0]]).all()


def test_pictures_that_change_size(tmp_path):
    """Two streams glued together: all frames come in the size of the first, with info or not."""
    parts = [
        encode(tmp_path / f"{size}.h264", "libx264", {"g": "12"}, frames=scene(20, *size))
        for size in ((48, 64), (96, 96))
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe(path)
    assert (info.frames, info.width, info.height) == (40, 64, 48)
    assert (read_frames(path, [0, 19]) == plain(parts[0])[[0, 19]]).all()
    late = read_frames(path, [30])
    assert late.shape == (1, 48, 64, 3) and (read_frames(path, [30], info=info) == late).all()
    assert read_frames(path, [5, 30], size=16, crop=(1, 1, 63, 47)).shape == (2, 16, 16, 3)


def test_pictures_that_grow_beyond_measure_in_mid_file(tmp_path, monkeypatch):
    """2026-11: only the header's size was checked; later pictures could be of any size."""
    parts = [
        encode(tmp_path / f"{size}.h264", "libx264", {"g": "12"}, frames=scene(20, *size))
        for size in ((48, 64), (96, 96))
    ]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    monkeypatch.setattr(_decoding, "MAX_PIXELS", 64 * 64)
    info = probe(tmp_path / "both.h264")
    assert (
        info.frames == 20
        and info.damage
        and (read_frames(tmp_path / "both.h264", [0, 19]) == plain(parts[0])[[0, 19]]).all()
    )
    with pytest.raises(VideoError, match="too large"):
        probe(parts[1])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_photographs_are_no_videos(tmp_path, suffix):
    Image = pytest.importorskip("PIL.Image")
    for name in f"photo{suffix}", "photo.mp4":
        with open(tmp_path / name, "wb") as file:
            Image.fromarray(scene(1)[0]).save(file, format={".jpg": "jpeg"}.get(suffix, suffix[1:]))
        with pytest.raises(VideoError, match="is a picture, no video"):
            probe(tmp_path / name)


def test_a_damaged_file_gives_what_decodes_without_seeking(tmp_path, capfd):
    """2026-11: after a seek, a decoder patches damage with other pictures than from the start."""
    whole = encode(tmp_path / "whole.mp4", "libx264", {"x264-params": X264})
    path = tmp_path / "damaged.mp4"
    rng = np.random.default_rng(0)
    assert probe(whole).seek_points and probe(whole).damage == 0
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        for packet in container.demux(video=0):
            if packet.size > 200 and packet.pts:  # dirt in its second half
                middle = packet.pos + packet.size // 2
                end = packet.pos + packet.size
                data[middle:end] = rng.bytes(end - middle)
    path.write_bytes(data)
    info = probe(path)
    assert 30 < info.frames <= 60 and info.damage > 0 and not info.seek_points
    assert len(read_frames(path, range(info.frames), info=info)) == info.frames
    assert capfd.readouterr() == ("", "")


def test_a_packet_that_does_not_decode_is_passed_over(made, tmp_path):
    path, data = tmp_path / "hole.mp4", bytearray(made("closed.mp4").read_bytes())
    with av.open(str(made("closed.mp4"))) as container:
        packet = [
            packet for packet in container.demux(video=0) if packet.size and not packet.is_keyframe
        ][30]
    data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    assert 50 < probe(path).frames < 60 and probe(path).damage
    assert (read_frames(path, [0, 12])[0] == plain(made("closed.mp4"))[0]).all()


def test_decoding_starts_no_threads(made):
    """One decoding thread in each worker process: more would fight with the other workers'."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("threads are counted in /proc")
    before = len(list(tasks.iterdir()))
    for name in "open.mp4", "vp9.webm", "open.hevc.mp4":
        with open_video(made(name)) as (container, stream):
            scaler = video.Scaler(32)
            for frame in decoded_frames(container, stream):
                scaler(frame)
            assert len(list(tasks.iterdir())) == before


# ---- files that are no videos


def a_bad_file(folder, kind):
    path = folder / f"{kind}.mp4"

    def whole(suffix):
        return encode(folder / f"whole{suffix}", "libx264", {}, frames=scene(20)).read_bytes()

    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "audio":
        path = folder / "audio.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", None))
            file.writeframes(bytes(16000))
    elif kind == "aac":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 8000), np.int16), format="s16", layout="mono"
            )
            frame.rate = 8000
            container.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        path = folder / {
            "text": "text.mp4",
            "text.txt": "text.txt",
            "playlist": "list.m3u8",
            "list": "list.txt",
        }.get(kind, path.name)
        path.write_bytes(
            {
                "empty": lambda: b"",
                "byte": lambda: b"\0",
                "noise": lambda: np.random.default_rng(0).bytes(9999),
                "text": lambda: b"Dear Sir or Madam\n" * 99,
                "text.txt": lambda: b"Dear Sir or Madam\n" * 99,
                "playlist": lambda: (
                    b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"
                    b"#EXT-X-ENDLIST\n"
                ),
                "list": lambda: whole(".mp4") and b"ffconcat version 1.0\nfile 'whole.mp4'\n",
                "cut to its header": lambda: whole(".mkv")[:700],
                "cut in half": lambda: whole(".mp4")[: -len(whole(".mp4")) // 2],
            }[kind]()
        )
    return path


BAD = {
    "missing": "no such file",
    "folder": "no regular file",
    "pipe": "no regular file",
    "empty": "is empty",
    "byte": "no video that FFmpeg can open",
    "noise": "no video that FFmpeg can open",
    "text": "no video that FFmpeg can open",
    "text.txt": "is a text",
    "list": "is a list of files",
    "playlist": "no video",
    "audio": "no video stream",
    "aac": "no video stream",
    "cut in half": "no video that FFmpeg can open",
    "cut to its header": "no picture|no video",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(tmp_path, capfd, kind):
    path = a_bad_file(tmp_path, kind)
    with pytest.raises(VideoError) as caught:
        probe(path)
    error = caught.value
    assert (
        isinstance(error, MemdpcError)
        and error.path == str(path)
        and re.search(BAD[kind], error.reason)
    )
    assert (
        str(error) == f"{path}: {error.reason}"
        and "\n" not in str(error)
        and len(error.reason) < 120
    )
    back = pickle.loads(pickle.dumps(error))  # worker processes send their errors home
    assert (type(back), back.path, back.reason) == (VideoError, error.path, error.reason)
    with pytest.raises(VideoError):
        read_frames(path, [0])
    assert capfd.readouterr() == ("", "")  # no chatter of decoders on the terminal


@pytest.mark.parametrize(
    "suffix,codec", [(".mkv", "libx264"), (".avi", "mpeg4"), (".webm", "libvpx-vp9")]
)
def test_half_a_file_gives_the_frames_that_are_there(tmp_path, suffix, codec):
    data = encode(tmp_path / f"whole{suffix}", codec, {"g": "12"}).read_bytes()
    path = tmp_path / f"half{suffix}"
    path.write_bytes(data[: len(data) * 6 // 10])
    info = probe(path)
    assert 10 <= info.frames < 60
    assert (
        read_frames(path, [0, 9], info=info) == plain(tmp_path / f"whole{suffix}")[[0, 9]]
    ).all()
    with pytest.raises(VideoError, match=f"frame {info.frames} asked for"):
        read_frames(path, [info.frames])


@pytest.mark.parametrize(
    "name",
    [
        "12:30.mp4",
        "100%03d.mp4",
        "[a] (b) & c; d!.mp4",
        "'quoted' \"twice\".mp4",
        "-x.mp4",
        "na\u00efve.mp4",
        os.fsdecode(b"\xff\xfe.mp4"),
    ],
)
def test_strange_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = Path(
        name
    )  # relative, so that FFmpeg would take what stands before a colon for a protocol
    try:
        path.write_bytes(
            encode(tmp_path / "plain.mp4", "libx264", {}, frames=scene(2)).read_bytes()
        )
    except OSError:
        pytest.skip("this file system does not take the name")
    assert probe(path).frames == 2
    with pytest.raises(VideoError) as caught:
        read_frames(path, [2])
    str(caught.value).encode()  # can be printed


def test_metadata_that_is_not_utf8(tmp_path):
    """2026-11: a plain av.open raises on these; 1 of 4 of the real clips is one."""
    path = tmp_path / "title.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXXXXXX"
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = 48, 64
        for array in scene(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"\xe9t\xe9\xff\xfe  "[:7] + b"\xe8"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert probe(path).frames == 2


# ---- what is asked wrongly


@pytest.mark.parametrize(
    "asked,error",
    [
        (dict(indices=[60]), VideoError),
        (dict(indices=[0, 10**6]), VideoError),
        (dict(indices=[-1]), ValueError),
        (dict(indices=[]), ValueError),
        (dict(indices=[1.5]), TypeError),
        (dict(indices=[0], size=0), ValueError),
        (dict(indices=[0], size=(8, -1)), ValueError),
        (dict(indices=[0], crop=(60, 0, 10, 10)), ValueError),
        (dict(indices=[0], crop=(-2, 0, 10, 10)), ValueError),
        (dict(indices=[0], crop=(0, 0, 0, 10)), ValueError),
    ],
)
def test_what_cannot_be_read(made, asked, error):
    path = made("closed.mp4")
    with pytest.raises(error) as caught:
        read_frames(path, **asked, info=probe(path))
    assert "\n" not in str(caught.value)


# ---- writing


@pytest.mark.parametrize(
    "suffix,codec,options",
    [
        (".mp4", "libx264", {"g": "12"}),
        (".mkv", "libx264", {"g": "12"}),
        (".avi", "mpeg4", {}),
        (".webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_writing_is_deterministic(tmp_path, suffix, codec, options):
    """2026-11: x264's macroblock tree reads memory that it never wrote.

    So two processes write, each with its own dirt in fresh memory (glibc's MALLOC_PERTURB_); they
    also differ in time and ids.
    """
    np.save(tmp_path / "scene.npy", scene())
    script = (
        "import sys, numpy as np; from memdpc.data.video import write_video; "
        f"write_video(sys.argv[1], np.load('scene.npy'), codec={codec!r}, options={options!r})"
    )
    for dirt in "85", "170":
        environment = os.environ | {"MALLOC_PERTURB_": dirt, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-c", script, dirt + suffix], check=True, cwd=tmp_path, env=environment
        )
    assert (tmp_path / f"85{suffix}").read_bytes() == (tmp_path / f"170{suffix}").read_bytes()


@pytest.mark.parametrize(
    "change,says",
    [
        (dict(frames=scene(2, 49, 64)), "even, got 64x49"),
        (dict(frames=scene(2)[..., 0]), r"\[T, H, W, 3\]"),
        (dict(frames=scene(2).astype(float)), "float64"),
        (dict(frames=scene(2)[:0]), "at least one frame"),
        (dict(codec="no such"), "no such cannot write"),
        (dict(fps=0), "fps"),
        (dict(path="x.nonsense"), "cannot write"),
    ],
)
def test_what_cannot_be_written(tmp_path, change, says):
    path = tmp_path / change.pop("path", "x.mp4")
    path.write_bytes(b"what was there before")
    with pytest.raises(ValueError, match=says) as caught:
        write_video(path, **{"frames": scene(2)} | change)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"what was there before" and os.listdir(tmp_path) == [path.name]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    """The system stops the file from growing: as on a full disk, only some bytes are written."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.mp4"
    write_video(path, scene(2))
    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError):
            write_video(path, scene())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["x.mp4"]


def test_a_reader_keeps_the_file_that_it_opened(tmp_path):
    """A file is replaced, never written into: a worker that reads it gets the old one whole."""
    path = tmp_path / "x.mp4"
    write_video(path, scene())
    old = path.read_bytes()
    with open(path, "rb") as reader:
        write_video(path, scene(seed=1))
        assert reader.read() == old != path.read_bytes()


def test_frame_rates_survive(tmp_path):
    for fps in 25, 29.97, 30000 / 1001, 12.5:
        write_video(tmp_path / "f.mp4", scene(8), fps)
        assert probe(tmp_path / "f.mp4").fps == pytest.approx(fps, rel=1e-3)
