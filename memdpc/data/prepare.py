"""A smaller copy of a dataset: same names, same pictures, quicker to read"""

import fcntl
import json
import logging
import math
import os
import shutil
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import mean, median
from time import monotonic_ns, perf_counter

import av
import numpy as np
from tqdm import tqdm

from memdpc.base.errors import ConfigError, DatasetError, VideoError, printable
from memdpc.base.files import stamp, write_bytes
from memdpc.data.clips import Clips
from memdpc.data.guard import described
from memdpc.data.index import Index, describe, info_from
from memdpc.data.layouts import annotation_files, below, list_dataset
from memdpc.data.video import (
    Scaler,
    decoded_frames,
    frame_times,
    open_video,
    probe,
    read_frames,
    shown_size,
)
from memdpc.data.videos import Packed, Video, VideoList, summary

logger = logging.getLogger(__name__)


def small_size(width, height, short_side):
    "`(height, width)` of the copy of a picture: in proportion, even, its short side at most `short_side`, never enlarged (but to 2x2)"
    return tuple(
        max(2, min(side, side * short_side // min(width, height)) // 2 * 2)
        for side in (height, width)
    )


RECIPE = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "g": "12",
    "bf": "0",
    "mbtree": "0",
}  # of x264


def h264_stream(container, size, rate, tick, crf):
    "A video stream in `container` for pictures of `size` (height, width), their times multiples of `tick` seconds"
    rate = Fraction(min(max(rate, 1), 1000)).limit_denominator(1001)  # a mere hint: the times count
    stream = container.add_stream("libx264", rate=rate, options=RECIPE | {"crf": str(crf)})
    stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
    context = stream.codec_context
    context.time_base, context.thread_count, context.thread_type = tick, 1, "NONE"
    context.flags |= av.codec.context.Flags.bitexact
    return stream


class Unordered(Exception):
    "Timestamps that are missing or do not rise"


def encode_copy(source, file, short_side, crf, even=False):
    """Write every picture of a video, upright and small, into the open `file` as MP4; `even`: evenly, whatever the timestamps say.

    Gives their times (float [frames], seconds from the first) and a few of them, `{index: uint8 [H, W, 3]}`.
    Raises `Unordered` unless `even`, `VideoError`, and `OSError` from the disk.
    """
    times, kept, every, into = [], {}, 1, None
    with (
        open_video(source) as (video, stream),
        av.open(file, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container,
    ):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        tick = 1 / rate if even else stream.time_base
        for index, frame in enumerate(decoded_frames(video, stream)):
            time = index if even else frame.pts
            if time is None or times and time <= times[-1]:
                raise Unordered
            times.append(time)
            if into is None:
                scaler = Scaler(small_size(*shown_size(frame), short_side))
                into = h264_stream(container, scaler.size, rate, tick, crf)
            picture = np.ascontiguousarray(scaler(frame))
            if index % every == 0:
                kept[index] = picture
            if len(kept) == 8:
                kept, every = dict(list(kept.items())[::2]), 2 * every
            new = av.VideoFrame.from_ndarray(picture, format="rgb24")
            new.pts, new.time_base, new.duration = (
                time - times[0],
                tick,
                max(1, round(1 / (rate * tick))),
            )
            container.mux(into.encode(new))
        if into is None:
            raise VideoError(os.fspath(source), "no picture in it can be decoded")
        container.mux(into.encode(None))
    return (np.array(times) - times[0]) * float(tick), kept


def psnr(a, b):
    "Peak signal-to-noise ratio of two uint8 arrays [T, H, W, 3], dB; 99 where they are equal"
    error = np.mean([np.mean((x - y.astype(np.float32)) ** 2) for x, y in zip(a, b)])
    return min(99.0, 10 * math.log10(255**2 / max(error, 1e-9)))


def check_copy(path, times, kept):
    "Read a copy again: `(VideoInfo, PSNR)`; raises `VideoError` unless it has as many pictures as `times`, and shows them then"
    info = probe(path)
    if info.frames != len(times):
        raise VideoError(path, f"{len(times)} pictures went in, {info.frames} came out")
    off = np.abs(frame_times(info) - times).max() * info.fps
    if off > 0.2:
        raise VideoError(
            path, f"its pictures are shown up to {off:.1f} frames too early or too late"
        )
    pictures = list(kept.values())
    return info, psnr(pictures, read_frames(path, list(kept), pictures[0].shape[:2], info=info))


def make_copy(source, aside, short_side, crf):
    "Copy a video to the file `aside`: verified, flushed to the disk, with the source's time of change; gives `(VideoInfo, PSNR)`"
    try:
        changed = os.stat(
            source
        ).st_mtime_ns  # before it is read: should it change meanwhile, the copy is old
    except OSError as error:
        raise VideoError(source, f"cannot be read ({error.strerror})") from None
    for even in (False, True):
        with open(aside, "wb") as file:
            try:
                times, kept = encode_copy(source, file, short_side, crf, even)
            except Unordered:
                continue
            file.flush()
            os.fsync(file.fileno())
            break
    result = check_copy(aside, times, kept)
    os.utime(aside, ns=(changed, changed))
    return result


def is_done(source, target):
    "Whether a copy is there and bears its source's time of change"
    try:
        changed, noted = os.stat(source).st_mtime_ns, os.lstat(target).st_mtime_ns
    except OSError:
        return False
    return noted == changed or noted % 100 == 0 and 0 < changed - noted < 2e9


def dataset_videos(name, root):
    "`(paths, missing)`: every video file of a dataset, and folders not entered; raises `DatasetError` where the layout is another"
    for subset in ("test", "train"):
        try:
            list_dataset(name, root, 1, subset)
        except DatasetError as error:
            wrong = error
        else:
            break
    else:
        raise wrong
    missing = []
    return below(root, "", missing), missing


def check_folders(config):
    "`(root, out)` of a config; raises `ConfigError` where the copy has no folder of its own"
    if not config.out:
        raise ConfigError("no out: name the copy's folder")
    root, out = Path(config.root), Path(config.out)
    source, copy = root.resolve(), out.resolve()
    if source == copy or source in copy.parents or copy in source.parents:
        raise ConfigError(
            f"{out}: the copy needs a folder of its own, neither inside nor around that of the dataset, {root}"
        )
    return root, out


def check_links(out, paths):
    "Raise `ConfigError` where the folder of one of `paths` in `out` is reached by a link, so that something else would be written to"
    for folder in {os.path.dirname(path) for path in paths}:
        if (out / folder).resolve() != out.resolve() / folder:
            raise ConfigError(f"{out / folder}: a link leads out of the copy")


SETTINGS, BENCH = (
    "prepare.json",
    ".prepare",
)  # in the copy's folder: what it was made with; files at work


@contextmanager
def workbench(out, settings):
    "The hidden folder in `out` for files at work: ours alone, empty, and gone afterwards; raises `ConfigError`"
    bench, there = out / BENCH, os.listdir(out) if out.exists() else []
    if SETTINGS in there:
        same_settings(out / SETTINGS, settings)
    elif set(there) - {BENCH}:
        raise ConfigError(
            f"{out}: is not empty, and holds no copy that prepare began; name a new folder"
        )
    bench.mkdir(parents=True, exist_ok=True)
    with open(bench / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{out}: another process is making this copy") from None
        except OSError:
            pass  # a file system without locks
        for left in bench.iterdir():
            if left.name != "lock":
                left.unlink()
        try:
            if SETTINGS not in there:
                write_bytes(bench / SETTINGS, json.dumps(settings, indent=2).encode() + b"\n")
                os.replace(bench / SETTINGS, out / SETTINGS)
            yield bench
        finally:
            shutil.rmtree(bench, ignore_errors=True)


def same_settings(path, settings):
    "Raise `ConfigError` if a copy was begun with other settings"
    try:
        found = dict(json.loads(path.read_text()))
    except ValueError:
        found = {}
    differing = [
        f"{name} {found.get(name)} instead of {value}"
        for name, value in settings.items()
        if found.get(name) != value
    ]
    if differing:
        raise ConfigError(
            f"{path.parent}: was begun with {', '.join(differing)}; use the same settings or a new folder"
        )


def put(aside, out, path):
    "Move a finished file to its place, `path` in the folder `out`, in one step"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    os.replace(aside, out / path)


def copy_file(root, out, path, aside):
    "Copy a file as it is, with its time of change"
    changed = os.stat(root / path).st_mtime_ns
    if is_done(root / path, out / path):
        return
    write_bytes(aside, (root / path).read_bytes())
    os.utime(aside, ns=(changed, changed))
    put(aside, out, path)


def copy_entry(path, bench, short_side, crf):
    "What a worker process does for a video: `{'aside', 'info', 'psnr'}`, `{'reason'}` if it is left out, `{'disk'}` if the disk fails"
    aside = os.path.join(bench, f"{os.getpid()}-{monotonic_ns()}")
    try:
        info, quality = make_copy(path, aside, short_side, crf)
        return {"aside": aside, "info": vars(info), "psnr": quality}
    except VideoError as error:
        reason = error.reason
    except MemoryError:
        reason = "needs too much memory"
    except OSError as error:
        return {"disk": (error.errno, error.strerror)}
    except Exception as error:
        reason = f"cannot be copied ({type(error).__name__}: {printable(error)})"
    if os.path.exists(aside):
        os.remove(aside)
    return {"reason": reason}


def copies(root, out, bench, paths, config):
    "Copy each of `paths` from `root` to its place in `out`: gives `(path, entry)`, as they are done; raises `OSError` if the disk fails"
    sources, work = (
        [os.path.join(root, path) for path in paths],
        (str(bench), config.short_side, config.crf),
    )
    if config.num_workers:
        done = described(
            sources,
            config.num_workers,
            config.time_limit,
            "memdpc.data.prepare",
            "copy_entry",
            *work,
        )
    else:
        done = ((path, copy_entry(path, *work)) for path in sources)
    bar = tqdm(
        done,
        "copying videos",
        len(paths),
        disable=None if paths else True,
        ascii=True,
        mininterval=1,
        file=sys.stderr,
    )
    with closing(done):  # whatever happens, workers end before the bench is cleared
        for source, entry in bar:
            path = source[len(os.path.join(root, "")) :]
            if "disk" in entry:
                raise OSError(*entry["disk"], str(out / path))
            if "reason" in entry:
                (out / path).unlink(missing_ok=True)  # a copy of what was whole before
            else:
                put(entry["aside"], out, path)
            yield path, entry


def compare_speed(
    folders,  # (the dataset's, the copy's)
    paths,  # of videos that both have
    img_size,
    count=20,
    patience=30,
):  # frames are scaled to; videos at most; seconds after which no further is begun
    "Clips/s before and after, and the median over videos of their ratio; None if none can be read. Clips of 8x5 frames, 3 apart, in this process"
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    begun, seconds, indices = perf_counter(), [], [Index(folder) for folder in folders]
    for path in sorted(chosen, key=lambda path: os.path.getsize(folders[0] / path)):
        if seconds and perf_counter() - begun > patience:
            break
        try:
            both = [Clips(alone(index, path), img_size=img_size) for index in indices]
        except VideoError:
            continue  # gone since
        seconds.append(
            np.mean([[clip_time(clips, epoch) for clips in both] for epoch in range(3)], 0)
        )
    if not seconds:
        return None
    before, after = np.mean(seconds, 0)
    return 1 / before, 1 / after, median(old / new for old, new in seconds)


def alone(index, path):
    "A video as a `VideoList`, opened if the index does not know it"
    if not index.fresh(path):
        index.add(path, describe(index.root / path))
    if "reason" in index.get(path):
        raise VideoError(path, index.get(path)["reason"])
    return VideoList(
        "folder", index.root, (), Packed([Video(path, -1, "", info_from(index.get(path)["info"]))])
    )


def clip_time(clips, epoch):
    "Seconds that reading a clip takes"
    start = perf_counter()
    clips[epoch, 0]
    return perf_counter() - start


def prepare(config):
    """Make or complete the copy that a `PrepareConfig` asks for; gives a `Prepared`, whose text is the report.

    Raises `ConfigError`, `DatasetError`, and `OSError` from the disk. Killed at any moment and called again, it ends with the same files.
    """
    videos, missing = dataset_videos(config.dataset, config.root)
    root, out = check_folders(config)
    settings = {name: getattr(config, name) for name in ("dataset", "short_side", "crf")} | {
        "x264": RECIPE
    }
    broken, files = dict(missing), annotation_files(config.dataset, root)
    check_links(out, [*videos, *files])
    with workbench(out, settings) as bench:
        index, new = Index(out), [path for path in videos if not is_done(root / path, out / path)]
        for path, entry in copies(root, out, bench, new, config):
            if "reason" in entry:
                broken[path] = entry["reason"]
            else:
                index.add(
                    path, {"stamp": stamp(out / path), "info": entry["info"], "psnr": entry["psnr"]}
                )
        for path in files:
            copy_file(root, out, path, bench / "file")
    kept, broken = [path for path in videos if path not in broken], dict(sorted(broken.items()))
    if not kept:
        raise DatasetError(
            f"{root}: none of the {len(videos)} videos can be read: {summary(broken.items())}"
        )
    if broken:
        logger.warning(
            "%s: %d videos are left out: %s", printable(root), len(broken), summary(broken.items())
        )
    sizes = tuple(sum(os.path.getsize(folder / path) for path in kept) for folder in (root, out))
    qualities = sorted(
        (index.get(path)["psnr"], path)
        for path in kept
        if index.fresh(path) and "psnr" in index.get(path)
    )
    logger.info("comparing clips/s of the dataset and of its copy")
    speed = compare_speed((root, out), kept, max(16, round(config.short_side / 1.25)))
    stale = sorted(set(below(out)) - set(videos))
    return Prepared(
        out,
        len(videos) - len(new),
        tuple(kept),
        tuple(broken.items()),
        tuple(stale),
        sizes,
        tuple(qualities),
        speed,
    )


@dataclass(frozen=True)
class Prepared:
    "What `prepare` did; its text is the report"

    out: Path  # the copy
    skipped: int  # videos that were there already
    kept: tuple[str, ...]  # paths of all videos of the copy
    broken: tuple[tuple[str, str], ...]  # (path, reason) of those left out
    stale: tuple[str, ...]  # paths in the copy that the dataset does not have any more
    sizes: tuple[int, int]  # bytes of the videos, before and after
    qualities: tuple[tuple[float, str], ...]  # (PSNR in dB, path), the worst first
    speed: (
        tuple[float, float, float] | None
    )  # clips/s before and after, and the median of the ratios

    def __str__(self):
        (before, after), copied = self.sizes, len(self.kept) - self.skipped
        lines = [
            f"{copied} videos copied, {self.skipped} there already, {len(self.broken)} left out, in {self.out}",
            f"bytes: {before:,} before, {after:,} after; {after / before:.2f} times",
        ]
        if self.speed:
            figures = "clips/s of one process: {2:.2f} times, the median over videos; {0:.1f} before and {1:.1f} after on average"
            lines.append(figures.format(*self.speed))
        if self.qualities:
            average, (worst, path) = (
                mean(quality for quality, _ in self.qualities),
                self.qualities[0],
            )
            lines.append(
                f"PSNR against the scaled originals: {average:.1f} dB on average over {len(self.qualities)} videos, {worst:.1f} dB at worst ({path})"
            )
        if self.stale:
            lines.append(
                f"not in the dataset any more, but still in the copy: {len(self.stale)} videos (the first: {self.stale[0]})"
            )
        return "\n".join(
            map(printable, lines + [f"left out: {path}: {reason}" for path, reason in self.broken])
        )
