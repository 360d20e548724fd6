"""Does a process that reads clips grow? Its memory over 20,000 of them; nbs/runs/results/leak.csv.

    python nbs/runs/support/leak.py

Each kind of video is read by two processes. In one the demuxer's generator is closed after each
clip, as the library does it; in the other it is dropped, as in a plain loop over PyAV, which keeps
some 145 bytes a clip. Then both ways take turns in one process, block by block, for their speed:
ratios are taken within a round, and what else the machine does meets both. The columns: video, way,
clips read so far, resident memory in MB, bytes that malloc has given out, the speed's ratio (closed
to dropped), and where the numbers come from.
"""

import argparse
import ctypes
import gc
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import process_time

import av
import numpy as np
import pandas as pd

import memdpc
from memdpc.data import _decoding
from memdpc.data.video import VideoInfo, probe, read_frames, write_video

RESULTS = Path(__file__).parents[1] / "results" / "leak.csv"
POINTS = 20  # measurements for each line
ROUNDS = 15
KINDS = {
    "h264.mp4": ("libx264", {"g": "6", "preset": "veryfast"}),
    "mpeg4.avi": ("mpeg4", {"g": "6", "bf": "0"}),
    "vp9.webm": ("libvpx-vp9", {"g": "6", "deadline": "realtime", "cpu-used": "8"}),
}
WAYS = {"closed": _decoding.closing, "dropped": nullcontext}


class Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(7)] + [
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


def malloc_bytes() -> int:
    """Bytes that malloc has given out and that were not freed, in this process."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    gc.collect()
    return mallinfo().uordblks


def resident_mb() -> float:
    """Memory of this process that is in RAM, MB."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096 / 1e6


def read_clips(path: Path, info: VideoInfo, count: int, way: str) -> None:
    """Read clips of two frames, three apart, that begin all over the video."""
    _decoding.closing = WAYS[way]
    for number in range(count):
        start = 7 * number % (info.frames - 3)
        read_frames(path, [start, start + 3], 16, info=info)


def growth(path: Path, way: str, clips: int) -> list[dict]:
    """The memory of this process, measured while it reads `clips` clips."""
    info = probe(path)
    rows = []
    step = clips // POINTS
    for done in range(step, clips + 1, step):
        read_clips(path, info, step, way)
        rows.append(
            {
                "video": path.name,
                "way": way,
                "clips": done,
                "resident_mb": round(resident_mb(), 3),
                "malloc_bytes": malloc_bytes(),
            }
        )
    return rows


def speed_ratio(path: Path, count: int) -> float:
    """How fast closing is, relative to dropping: the median over rounds."""
    info = probe(path)
    ratios = []
    for number in range(ROUNDS):
        seconds = {}
        for way in list(WAYS)[:: 1 if number % 2 else -1]:
            start = process_time()
            read_clips(path, info, count, way)
            seconds[way] = process_time() - start
        ratios.append(seconds["dropped"] / seconds["closed"])
    return median(ratios)


def videos(folder: Path) -> Iterator[Path]:
    """Small videos of noise, one of each kind."""
    frames = np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), np.uint8)
    for name, (codec, options) in KINDS.items():
        write_video(folder / name, frames, codec=codec, options=options)
        yield folder / name


def in_fresh_process(function, *args):
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def provenance() -> dict[str, str]:
    """Commit, machine and versions."""
    commit = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "av": av.__version__,
        "memdpc": memdpc.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for path in videos(Path(folder)):
            ratio = in_fresh_process(speed_ratio, path, max(1, options.clips // 400))
            for way in WAYS:
                found = in_fresh_process(growth, path, way, options.clips)
                rows += [row | {"speed_ratio": round(ratio, 3)} for row in found]
                grown = found[-1]["resident_mb"] - found[0]["resident_mb"]
                print(f"{path.name:10} {way:8} {grown:+7.2f} MB, speed {ratio:.3f}", flush=True)
                pd.DataFrame(rows).assign(**provenance()).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
