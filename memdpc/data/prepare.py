"""A smaller copy of a dataset, same names and same pictures, quicker to read: `memdpc prepare`.

A clip of 40 frames, three apart, begins anywhere in a video and spans S = 118 of its frames. The
decoder cannot begin anywhere, only at a keyframe. What lies between keyframe and clip is decoded
and thrown away: (g - 1) / 2 frames on average, if keyframes are g apart. Encoders for the web put
them as much as 250 apart. And every frame costs in proportion to its pixels. So a copy has smaller
pictures and a keyframe at every twelfth.

When it pays, measured on four test clips and a synthetic one, `short_side=160`, clips of 128x128:

| video | source | bytes | clips/s |
|---|---|---|---|
| UCF101 | 320x240, MPEG-4 part 2, g = 12 | 0.67 times | 0.9 times |
| HMDB51, two videos | 240 high, MPEG-4 part 2 | 0.42, 0.81 | 1.1, 1.0 |
| as in Kinetics | 340x256, H.264, few keyframes | 0.89 | 5 |
| synthetic | 1920x1080, H.264, g = 250 | 0.10 | 50 |

So UCF101 and HMDB51 are left as they are: small, and in a codec that is older and easier to decode
than H.264. What comes from the web or from a phone gains much. A picture of a copy is scaled twice
and compressed twice; nothing here says what that costs in accuracy.

Files at work lie in a hidden folder, `.prepare`. A finished file is moved to its place in one step,
so whatever has its own name is whole. What a killed run left in the hidden folder is removed by the
next. The dataset's own lists are copied last: what is unfinished is no dataset.
"""

import logging
import math
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import mean, median
from time import monotonic_ns, perf_counter
from typing import Any, BinaryIO

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.stream import VideoStream

from memdpc.base.config import PrepareConfig
from memdpc.base.errors import ConfigError, DatasetError, MemdpcError, VideoError, printable
from memdpc.base.files import (
    hold_folder,
    output_folder,
    read_json,
    remove,
    stamp,
    write_bytes,
    write_json,
)
from memdpc.base.terminal import on_terminal, progress_bar
from memdpc.data._decoding import check_readable
from memdpc.data.clips import Clips
from memdpc.data.guard import Entry, run_guarded
from memdpc.data.index import Index, describe
from memdpc.data.layouts import annotation_files, list_parts, video_paths
from memdpc.data.video import (
    Scaler,
    VideoInfo,
    decoded_frames,
    frame_times,
    open_video,
    probe,
    read_frames,
    shown_size,
)
from memdpc.data.videos import Packed, Video, VideoList, summarize_reasons

logger = logging.getLogger(__name__)

# What x264 is told.
# fastdecode: no arithmetic coding, no smoothing of block edges. Clips were read 1.5 to 1.9 times as
# fast as without it, for a tenth more bytes.
# No B-frames: with them the same quality took about as many bytes, and reading as long. Without,
# packets lie in the order in which they are shown.
# veryfast: `medium` took twice the time and gained less than a decibel.
# mbtree off: the same pictures give the same bytes.
RECIPE = {"preset": "veryfast", "tune": "fastdecode", "g": "12", "bf": "0", "mbtree": "0"}
SETTINGS = "prepare.json"  # in the copy's folder: what it was made with
BENCH = ".prepare"  # in the copy's folder: files at work
USUAL_RATE = Fraction(25)  # frames per second, for a file that does not tell
TIME_STEPS = (1, 100, 1000, 10**6, 10**7, 10**9, 2 * 10**9)  # ns; of file systems
LATE = 0.2  # frames that a picture of a copy may be shown too early or too late


# ---- one video


def small_size(
    width: int,
    height: int,
    short_side: int,
) -> tuple[int, int]:
    """(height, width) of the copy of a picture, in pixels.

    In proportion, even, its short side at most `short_side`, never enlarged (but to 2x2).
    """
    shortest = min(width, height)
    sides: list[int] = []
    for side in (height, width):
        scaled = min(side, side * short_side // shortest)
        sides.append(max(2, scaled // 2 * 2))
    return sides[0], sides[1]


class Unordered(Exception):
    """Timestamps that are missing or do not rise."""


class _Encoder:
    """Pictures in, an MP4 file out; a few of the pictures are kept, for the check that follows."""

    def __init__(
        self, container: OutputContainer, rate: Fraction, tick: Fraction, short_side: int, crf: int
    ) -> None:
        self.container = container
        self.rate = rate  # frames per second, on average
        self.tick = tick  # seconds; times are multiples of it
        self.short_side = short_side
        self.crf = crf
        self.stream: VideoStream | None = None
        self.times: list[int] = []  # in ticks
        self.kept: dict[int, np.ndarray] = {}  # {index: uint8 [H, W, 3]}
        self._keep_every = 1

    def add(
        self,
        frame: av.VideoFrame,
        time: int,
    ) -> None:
        """Scale a decoded frame and write it, to be shown at `time`."""
        if self.stream is None:
            size = small_size(*shown_size(frame), self.short_side)
            self.scaler = Scaler(size)
            self.stream = self._add_stream(size)
        picture = np.ascontiguousarray(self.scaler(frame))
        self._keep(picture, len(self.times))
        self.times.append(time)
        encoded = av.VideoFrame.from_ndarray(picture, format="rgb24")
        encoded.pts = time - self.times[0]
        encoded.time_base = self.tick
        encoded.duration = max(1, round(1 / (self.rate * self.tick)))
        self.container.mux(self.stream.encode(encoded))

    def finish(self) -> None:
        """Write what the encoder still holds back."""
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))

    def _keep(
        self,
        picture: np.ndarray,
        index: int,
    ) -> None:
        """Keep some pictures, spread over the video: of eight every second one is dropped."""
        if index % self._keep_every == 0:
            self.kept[index] = picture
        if len(self.kept) == 8:
            self.kept = dict(list(self.kept.items())[::2])
            self._keep_every *= 2

    def _add_stream(self, size: tuple[int, int]) -> VideoStream:
        rate = min(max(self.rate, Fraction(1)), Fraction(1000))
        options = RECIPE | {"crf": str(self.crf)}
        # The rate is a mere hint: the times count.
        stream = self.container.add_stream(
            "libx264", rate=rate.limit_denominator(1001), options=options
        )
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self.tick
        context.thread_count = 1
        context.thread_type = "NONE"
        context.flags |= Flags.bitexact
        return stream


def encode_copy(
    source: str, file: BinaryIO, short_side: int, crf: int, even: bool = False
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Write every picture of a video, upright and small, into the open `file` as MP4.

    Picture after picture is decoded, scaled, encoded and forgotten, so a long film takes no more
    memory than a short one. Each keeps its timestamp, counted from the first; with `even` they are
    spread evenly, whatever the timestamps say. Sound is left behind.

    Returns their times (float [frames], seconds from the first) and a few of them, {index: uint8
    [H, W, 3]}. Raises `Unordered` unless `even`, `VideoError`, and `OSError` from the disk.
    """
    options = {"fflags": "+bitexact"}
    with (
        open_video(source) as (video, stream),
        av.open(file, "w", format="mp4", container_options=options) as container,
    ):
        rate = stream.average_rate or stream.guessed_rate or USUAL_RATE
        tick = 1 / rate if even else (stream.time_base or 1 / rate)
        encoder = _Encoder(container, rate, tick, short_side, crf)
        for index, frame in enumerate(decoded_frames(video, stream)):
            time = index if even else frame.pts
            if time is None or (encoder.times and time <= encoder.times[-1]):
                raise Unordered
            encoder.add(frame, time)
        if not encoder.times:
            raise VideoError(os.fspath(source), "no picture in it can be decoded")
        encoder.finish()
    times = np.array(encoder.times)
    return (times - times[0]) * float(tick), encoder.kept


def psnr(
    a: Iterable[np.ndarray],
    b: Iterable[np.ndarray],
) -> float:
    """Peak signal-to-noise ratio of pictures (uint8 [H, W, 3]), dB; 99 where they are equal."""
    errors = [np.mean((x - y.astype(np.float32)) ** 2) for x, y in zip(a, b)]
    return min(99.0, 10 * math.log10(255**2 / max(np.mean(errors), 1e-9)))


def check_copy(
    path: str, times: np.ndarray, kept: dict[int, np.ndarray]
) -> tuple[VideoInfo, float]:
    """Read a copy again: what is in it, and its PSNR (dB) on the pictures that were kept.

    Raises `VideoError` unless it has as many pictures as there are `times`, and shows them then, to
    a fifth of a frame.
    """
    info = probe(path)
    if info.frames != len(times):
        raise VideoError(path, f"{len(times)} pictures went in, {info.frames} came out")
    off = np.abs(frame_times(info) - times).max() * info.fps
    if off > LATE:
        late = f"its pictures are shown up to {off:.1f} frames too early or too late"
        raise VideoError(path, late)
    pictures = list(kept.values())
    copied = read_frames(path, list(kept), pictures[0].shape[:2], info=info)
    return info, psnr(pictures, np.asarray(copied))


def make_copy(
    source: str, part: str | os.PathLike, short_side: int, crf: int
) -> tuple[VideoInfo, float]:
    """Copy a video to the file `part`: checked, flushed to the disk, with the source's time.

    Returns what is in it, and its PSNR (dB). Where timestamps are missing or do not rise, as in
    AVIs with B-frames, nobody knows when a picture is shown: the work starts over, with the
    constant rate that the header tells.
    """
    # Before it is read: should it change meanwhile, the copy is old.
    changed = os.stat(source).st_mtime_ns
    check_readable(source)
    try:
        times, kept = _encode_to_disk(source, part, short_side, crf, even=False)
    except Unordered:
        times, kept = _encode_to_disk(source, part, short_side, crf, even=True)
    result = check_copy(os.fspath(part), times, kept)
    os.utime(part, ns=(changed, changed))
    return result


def _encode_to_disk(
    source: str, part: str | os.PathLike, short_side: int, crf: int, even: bool
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    with open(part, "wb") as file:
        result = encode_copy(source, file, short_side, crf, even)
        file.flush()
        os.fsync(file.fileno())
    return result


def is_done(
    source: str | os.PathLike,
    target: str | os.PathLike,
) -> bool:
    """Whether a copy is there and has its source's time of change.

    Some file systems know time in steps only, of up to two seconds, and round down.
    """
    try:
        changed = os.stat(source).st_mtime_ns
        noted = os.lstat(target).st_mtime_ns
    except OSError:
        return False
    return any(noted == changed // step * step for step in TIME_STEPS)


# ---- a dataset's folder, and that of its copy


def _dataset_videos(
    name: str,
    root: str,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Every video file of a dataset, whichever list names it, and (path, reason) of the rest.

    Raises `DatasetError` where the layout is not the dataset's.
    """
    parts, _ = list_parts(name, root)
    missing: list[tuple[str, str]] = []
    videos = set(video_paths(root, "", missing))
    for listing in parts.values():
        videos.update(entry.path for entry in listing.listed)
    return sorted(videos), missing


def _check_folders(config: PrepareConfig) -> tuple[Path, Path]:
    """(root, out) of a config; raises `ConfigError` where the copy has no folder of its own."""
    root = Path(config.root)
    out = Path(config.out)
    source = root.resolve()
    copy = out.resolve()
    if source == copy or source in copy.parents or copy in source.parents:
        raise ConfigError(
            f"{out}: the copy needs a folder of its own, neither inside nor around that of the "
            f"dataset, {root}"
        )
    return root, out


def _check_links(
    out: Path,
    paths: Iterable[str],
) -> None:
    """`ConfigError` where a link leads out of the copy: something else would be written to."""
    top = out.resolve()
    for folder in {os.path.dirname(path) for path in paths}:
        if (out / folder).resolve() != top / folder:
            raise ConfigError(f"{out / folder}: a link leads out of the copy")


@contextmanager
def _workbench(
    out: Path,
    settings: dict[str, Any],
) -> Iterator[Path]:
    """The hidden folder in `out` for files at work: this process's alone, empty, gone afterwards.

    Raises `ConfigError` where `out` holds anything but such a copy, or another process is at work.
    """
    bench = out / BENCH
    there = os.listdir(out) if out.exists() else []
    if SETTINGS in there:
        _check_settings(out / SETTINGS, settings)
    elif set(there) - {BENCH}:
        begun = "is not empty, and holds no copy that prepare began; name a new folder"
        raise ConfigError(f"{out}: {begun}")
    if bench.is_symlink():
        raise ConfigError(f"{bench}: a link, whose files would be removed; remove the link")
    lock = hold_folder(bench)
    try:
        for left in bench.iterdir():
            if str(left) != lock.lock_file:
                remove(left)
        if SETTINGS not in there:
            write_json(bench / SETTINGS, settings)
            os.replace(bench / SETTINGS, out / SETTINGS)
        yield bench
    finally:
        shutil.rmtree(bench, ignore_errors=True)
        lock.release()


def _check_settings(
    path: Path,
    settings: dict[str, Any],
) -> None:
    """`ConfigError` if a copy was begun with other settings."""
    damaged = ConfigError(f"{path}: is damaged; use a new folder")
    found = read_json(path, damaged)
    differing: list[str] = []
    for name, value in settings.items():
        if found.get(name) != value:
            differing.append(f"{name} {found.get(name)} instead of {value}")
    if differing:
        begun = f"was begun with {', '.join(differing)}"
        raise ConfigError(f"{path.parent}: {begun}; use the same settings or a new folder")


def _move_into_place(
    part: str | os.PathLike,
    out: Path,
    path: str,
) -> None:
    """Move a finished file to its place, `path` in the folder `out`, in one step."""
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, out / path)


def _copy_file(
    root: Path,
    out: Path,
    path: str,
    part: Path,
) -> None:
    """Copy a file as it is, with its time of change."""
    changed = os.stat(root / path).st_mtime_ns
    if is_done(root / path, out / path):
        return
    write_bytes(part, (root / path).read_bytes())
    os.utime(part, ns=(changed, changed))
    _move_into_place(part, out, path)


# ---- the work, by processes that may die


def copy_entry(
    path: str,
    bench: str,
    short_side: int,
    crf: int,
) -> Entry:
    """What a worker process does for a video: copy it to a file in the folder `bench`.

    `{"part", "info", "psnr"}` where that went well, `{"reason"}` where the video is left out, with
    `"stamp"` where the file is to blame, and `{"disk"}`, error number and text, where the copy's
    disk fails: then the job ends.
    """
    part = os.path.join(bench, f"{os.getpid()}-{monotonic_ns()}")
    try:
        before = stamp(path)
        info, quality = make_copy(path, part, short_side, crf)
        return {"part": part, "info": vars(info), "psnr": quality}
    except VideoError as error:
        entry = {"stamp": before, "reason": error.reason}
    except MemoryError:
        entry = {"reason": "needs too much memory"}
    except OSError as error:
        if error.filename != path:
            return {"disk": (error.errno, error.strerror)}
        entry = {"reason": f"cannot be read ({error.strerror})"}
    except Exception as error:
        entry = {"reason": f"cannot be copied ({type(error).__name__}: {printable(error)})"}
    if os.path.exists(part):
        os.remove(part)
    return entry


def _copy_videos(
    root: Path, out: Path, bench: Path, paths: Sequence[str], config: PrepareConfig
) -> Generator[tuple[str, Entry], None, None]:
    """Copy each of `paths` from `root` to its place in `out`: (path, entry), as they are done.

    Raises `OSError` if the disk fails.
    """
    done = _make_copies(root, bench, paths, config)
    shown = len(paths) > 0 and on_terminal()
    bar = progress_bar(done, "copying videos", len(paths), shown)
    with closing(done):  # whatever happens, workers end before the bench is cleared
        for path, entry in bar:
            if "disk" in entry:
                raise OSError(*entry["disk"], str(out / path))
            if "part" in entry:
                _move_into_place(entry["part"], out, path)
            elif "stamp" in entry and "limit" not in entry:
                # The copy is of what was whole before. Of a file that cannot be read for the
                # moment, or not in time, it stays.
                (out / path).unlink(missing_ok=True)
            yield path, entry


def _make_copies(
    root: Path, bench: Path, paths: Sequence[str], config: PrepareConfig
) -> Generator[tuple[str, Entry], None, None]:
    """(path, entry) of each of `paths`, copied to a file in `bench`."""
    settings = (os.path.abspath(bench), config.short_side, config.crf)
    if not config.num_workers:
        for path in paths:
            yield path, copy_entry(os.path.join(root, path), *settings)
        return
    top = os.path.join(os.path.abspath(root), "")
    sources = [top + path for path in paths]
    done = run_guarded(copy_entry, sources, config.num_workers, config.time_limit, *settings)
    with closing(done):
        for source, entry in done:
            yield source.removeprefix(top), entry


# ---- what it gained


def measure_speed(
    folders: tuple[Path, Path],
    paths: Sequence[str],
    img_size: int,
    count: int = 20,
    patience: float = 30,
) -> tuple[float, float, float] | None:
    """Clips/s before and after, and the median over videos of their ratio; None if none is read.

    Clips of 8 blocks of 5 frames, 3 apart, in this process. Of each video three clips are read,
    once from the original and once from the copy, in turn: a busy machine slows both alike.

    Args:
        folders: the dataset's and the copy's
        paths: of videos that both have
        img_size: frames are scaled to it, pixels
        count: of videos, at most, spread evenly over the dataset
        patience: seconds after which no further video is begun; small files come first
    """
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)
    chosen = [paths[int(place)] for place in places]
    begun = perf_counter()
    indices = [Index(folder) for folder in folders]
    seconds: list[np.ndarray] = []  # [2] each: before and after
    for path in sorted(chosen, key=lambda path: os.path.getsize(folders[0] / path)):
        if seconds and perf_counter() - begun > patience:
            break
        try:
            both = [Clips(_single_video(index, path), img_size=img_size) for index in indices]
            rounds = [[_clip_time(clips, epoch) for clips in both] for epoch in range(3)]
        except (MemdpcError, OSError):
            continue  # gone since, or not to be read for the moment
        seconds.append(np.mean(rounds, axis=0))
    if not seconds:
        return None
    before, after = np.mean(seconds, axis=0)
    return 1 / before, 1 / after, median(old / new for old, new in seconds)


def _single_video(
    index: Index,
    path: str,
) -> VideoList:
    """A `VideoList` of one video, which is opened if the index does not know it."""
    entry = index.get(path)
    if entry is None or not index.fresh(path):
        index.add(path, describe(index.root / path))
        entry = index.get(path) or {"reason": "was not opened"}
    if "reason" in entry:
        raise VideoError(path, entry["reason"])
    video = Video(path, -1, "", entry["info"])
    return VideoList("folder", index.root, (), Packed([video]))


def _clip_time(
    clips: Clips,
    epoch: int,
) -> float:
    """Seconds that reading a clip takes."""
    start = perf_counter()
    clips[epoch, 0]
    return perf_counter() - start


# ---- the job


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did; its text is the report."""

    out: Path  # the copy
    skipped: int  # videos that were there already
    kept: tuple[str, ...]  # paths of all videos of the copy
    broken: tuple[tuple[str, str], ...]  # (path, reason) of those left out
    stale: tuple[str, ...]  # paths in the copy that the dataset does not have any more
    sizes: tuple[int, int]  # bytes of the videos, before and after
    qualities: tuple[tuple[float, str], ...]  # (PSNR in dB, path), the worst first
    speed: tuple[float, float, float] | None  # clips/s before and after, and the median ratio

    def __str__(self) -> str:
        copied = len(self.kept) - self.skipped
        before, after = self.sizes
        lines = [
            f"{copied} videos copied, {self.skipped} there already, {len(self.broken)} left out, "
            f"in {self.out}",
            f"bytes: {before:,} before, {after:,} after; {after / before:.2f} times",
        ]
        if self.speed:
            old, new, ratio = self.speed
            lines.append(
                f"clips/s of one process: {ratio:.2f} times, the median over videos; "
                f"{old:.1f} before and {new:.1f} after on average"
            )
        if self.qualities:
            average = mean(quality for quality, _ in self.qualities)
            worst, path = self.qualities[0]
            lines.append(
                f"PSNR against the scaled originals: {average:.1f} dB on average over "
                f"{len(self.qualities)} videos, {worst:.1f} dB at worst ({path})"
            )
        if self.stale:
            lines.append(
                "not in the dataset any more, but still in the copy: "
                f"{len(self.stale)} videos (the first: {self.stale[0]})"
            )
        lines += [f"left out: {path}: {reason}" for path, reason in self.broken]
        return "\n".join(printable(line) for line in lines)


def prepare(config: PrepareConfig) -> Prepared:
    """Make or complete the copy that a `PrepareConfig` asks for; its text is the report.

    Raises `ConfigError`, `DatasetError`, and `OSError` from the disk. Killed at any moment and
    called again, it ends with the same files.
    """
    output_folder(config.out, SETTINGS)
    videos, missing = _dataset_videos(config.dataset, config.root)
    root, out = _check_folders(config)
    files = annotation_files(config.dataset, root)
    _check_links(out, [*videos, *files])
    settings = {name: getattr(config, name) for name in ("dataset", "short_side", "crf")}
    settings["x264"] = RECIPE
    reasons = dict(missing)
    with _workbench(out, settings) as bench:
        index = Index(out)
        new = [path for path in videos if not is_done(root / path, out / path)]
        for path, entry in _copy_videos(root, out, bench, new, config):
            if "reason" in entry:
                stays = "; its earlier copy stays" if (out / path).exists() else ""
                reasons[path] = entry["reason"] + stays
            else:
                # No later command opens the copy again.
                known = {"info": entry["info"], "psnr": entry["psnr"]}
                index.add(path, {"stamp": stamp(out / path)} | known)
        for path in files:
            _copy_file(root, out, path, bench / "file")
    broken = tuple(sorted(reasons.items()))
    kept = tuple(path for path in videos if path not in reasons)
    _tell_broken(root, len(videos), kept, broken)
    logger.info("comparing clips/s of the dataset and of its copy")
    return Prepared(
        out,
        skipped=len(videos) - len(new),
        kept=kept,
        broken=broken,
        stale=tuple(sorted(set(video_paths(out)) - set(videos))),
        sizes=(_total_size(root, kept), _total_size(out, kept)),
        qualities=_qualities(index, kept),
        speed=measure_speed((root, out), kept, max(16, round(config.short_side / 1.25))),
    )


def _tell_broken(
    root: Path, count: int, kept: Sequence[str], broken: Sequence[tuple[str, str]]
) -> None:
    """Log what is left out; `DatasetError` where that is all."""
    if not broken:
        return
    reasons = summarize_reasons(broken)
    if not kept:
        raise DatasetError(f"{root}: none of the {count} videos can be read: {reasons}")
    logger.warning("%s: %d videos are left out: %s", printable(root), len(broken), reasons)


def _total_size(
    folder: Path,
    paths: Iterable[str],
) -> int:
    return sum(os.path.getsize(folder / path) for path in paths)


def _qualities(
    index: Index,
    paths: Iterable[str],
) -> tuple[tuple[float, str], ...]:
    """(PSNR, path) of the copies, the worst first."""
    found: list[tuple[float, str]] = []
    for path in paths:
        entry = index.get(path)
        if entry is not None and "psnr" in entry and index.fresh(path):
            found.append((entry["psnr"], path))
    return tuple(sorted(found))


__all__ = ["prepare"]
