"""How fast clips come from your files on this machine, where the time goes, and who feeds a GPU.

`memdpc benchmark --video FILE --out RUN` measures, for clips of one video as pretraining reads
them: clips per second of one core, the functions that take the time, clips per second of 1, 2, 4,
... reader processes, and of a training step on this device. From these follows how many readers
the device needs. A GPU that waits for videos is a waste.

How other people's loaders compare on the same clips is a study: `nbs/runs/benchmark.ipynb`.
"""

import cProfile
import logging
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from types import CodeType
from typing import Any

import numpy as np
import torch

from memdpc import __version__
from memdpc.base.config import BenchmarkConfig, save_config
from memdpc.base.errors import ConfigError, printable
from memdpc.base.files import atomic_write, output_folder, work_folder
from memdpc.base.plugins import load_plugins
from memdpc.data.augment import Augment
from memdpc.data.clips import Clips
from memdpc.data.video import probe, write_video
from memdpc.data.videos import Packed, Video, VideoList
from memdpc.method.model import MemDPC
from memdpc.training.loop import optimise
from memdpc.training.pretrain import pretrain_step
from memdpc.training.processes import cores, make_accelerator, make_loader
from memdpc.training.run import add_results, read_results

logger = logging.getLogger(__name__)


@dataclass
class Benchmark:
    """What `benchmark` measured; its text is a table."""

    per_core: float  # clips per second of one core
    functions: dict[str, float]  # milliseconds of a clip, longest first
    readers: dict[int, float]  # reader processes -> clips per second
    step: dict[str, Any]  # of a training step: device, clips at a time, clips_per_second
    facts: dict[str, Any]  # video, machine, versions

    @property
    def per_reader(self) -> float:
        """Clips per second of a reader process beside as many others as were tried."""
        if not self.readers:
            return self.per_core
        most = max(self.readers)
        return self.readers[most] / most

    @property
    def readers_needed(self) -> int:
        """How many readers keep this device busy."""
        return math.ceil(self.step["clips_per_second"] / self.per_reader)

    def rows(self) -> list[dict[str, Any]]:
        """The measured speeds as rows of a table."""
        rows = [{"what": "one core", "clips_per_second": self.per_core}]
        for count, speed in self.readers.items():
            rows.append({"what": f"readers: {count}", "clips_per_second": speed})
        step = f"training step on {self.step['device']}, {self.step['clips']} clips"
        rows.append({"what": step, "clips_per_second": self.step["clips_per_second"]})
        return rows

    def __str__(self) -> str:
        lines = [f"{row['what']:40}{row['clips_per_second']:9.1f} clips/s" for row in self.rows()]
        total = sum(self.functions.values())
        shares = [f"{name} {spent / total:.0%}" for name, spent in self.functions.items()]
        lines.append(f"a clip: {total:.1f} ms, " + ", ".join(shares))
        lines.append(f"readers that this device needs: {self.readers_needed}")
        facts = self.facts
        lines.append(f"{facts['video']}; {facts['processor']}, {facts['machine_cores']} cores")
        return "\n".join(lines)


def benchmark(config: BenchmarkConfig) -> Benchmark:
    """Measure the data path and a training step; the results are written to `config.out`.

    `ConfigError` for an `out` that holds another job's results, `VideoError` for a file that gives
    no frames.
    """
    load_plugins(config.plugin)
    _checked_folder(config)
    found = _measure(config)
    out = _checked_folder(config)  # another job may have come meanwhile
    with atomic_write(out / "config.json") as part:
        save_config(config, part)
    add_results(out, asdict(found) | {"readers_needed": found.readers_needed}, main=True)
    return found


def _measure(config: BenchmarkConfig) -> Benchmark:
    if config.video:
        return _measure_on(Path(config.video), config)
    with work_folder(Path(config.out)) as folder:
        return _measure_on(make_video(folder / "made.avi"), config)


def _measure_on(path: Path, config: BenchmarkConfig) -> Benchmark:
    clips = clips_of(config, path)
    logger.info("%s: %d frames", printable(path), clips.videos.videos[0].info.frames)
    with one_thread():
        per_core = time_clips(clips, config.clips)
        functions = time_functions(clips, config.clips)
    logger.info("readers, up to %d", config.num_workers)
    readers = {
        count: time_readers(clips, config.clips, config.batch_size, count)
        for count in _worker_counts(config.num_workers)
    }
    logger.info("training step of %s", config.encoder)
    step = time_step(config)
    return Benchmark(per_core, functions, readers, step, facts_of(path))


def _checked_folder(config: BenchmarkConfig) -> Path:
    out = output_folder(config.out, "config.json", "metrics.json")
    used = (out / "config.json").exists() or (out / "metrics.json").exists()
    if used and "readers_needed" not in read_results(out):
        raise ConfigError(f"{out}: holds results of another job; choose another out")
    return out


# ---- what is read


def clips_of(config: BenchmarkConfig, path: Path) -> Clips:
    """Random augmented clips of one video, as pretraining reads them; raises `VideoError`."""
    entry = Video(path.name, -1, "", probe(path))
    videos = VideoList("folder", path.parent, (), Packed([entry]))
    sizes = (config.num_blocks, config.block_len, config.frame_stride, config.img_size)
    return Clips(videos, *sizes, config.seed, Augment())


def make_video(path: Path) -> Path:
    """Write a video like UCF101's: 320x240, MPEG-4 part 2, a keyframe at every twelfth frame.

    It has 240 frames and some 420 kbit/s, and is the same in every run.
    """
    write_video(path, natural_frames(), 25, "mpeg4", {"g": "12", "b": "420k", "bf": "0"})
    return path


def natural_frames(num_frames: int = 240, height: int = 240, width: int = 320) -> np.ndarray:
    """A textured ground that drifts, and a little noise as of a camera: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    ground = 120 + 40 * _texture(rng, 512)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        down = int(60 + 40 * np.sin(t / 23))
        right = int(90 + 60 * np.sin(t / 31))
        noise = 2 * rng.standard_normal((height, width, 1))
        picture = ground[down : down + height, right : right + width] + noise
        frames[t] = picture.clip(0, 255)
    return frames


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise whose amplitudes fall with the frequency, as in photographs: float [size, size, 3].

    Mean 0, deviation about 1; the three colours are much alike.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))[..., None]
    white = np.fft.fft2(rng.standard_normal((size, size, 4)), axes=(0, 1))
    noise = np.fft.ifft2(white / np.maximum(frequency, 1 / size) ** 1.2, axes=(0, 1)).real
    noise = (noise - noise.mean((0, 1))) / noise.std((0, 1))
    return 0.9 * noise[..., :1] + 0.4 * noise[..., 1:]


# ---- clocks


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread, as it does in a reader process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(function: Callable[[], Any], clock: Callable[[], float] = perf_counter) -> float:
    """The time that a call takes, by `clock`; `process_time` leaves out what others compute."""
    start = clock()
    function()
    return clock() - start


def time_clips(clips: Clips, total: int) -> float:
    """Clips per second of a core's time: from the median of `total` clips."""
    clips[0, 0]  # loads and compiles what the others find ready
    spent = [seconds(partial(clips.__getitem__, (key, 0)), process_time) for key in range(total)]
    return 1 / median(spent)


def time_functions(clips: Clips, total: int, longest: int = 8) -> dict[str, float]:
    """Milliseconds of a clip that each Python function takes, with the C code that it calls.

    Time counts for the innermost Python function. The `longest` are named, the rest is "other".
    """
    profile = cProfile.Profile(process_time, builtins=False)  # C code counts for its caller
    profile.enable()
    for key in range(total):
        clips[key, 0]
    profile.disable()
    spent: dict[str, float] = {}
    for entry in profile.getstats():
        name = _function_name(entry.code)
        spent[name] = spent.get(name, 0.0) + 1000 * entry.inlinetime / total
    ordered = sorted(spent, key=spent.__getitem__, reverse=True)
    named = {name: spent[name] for name in ordered[:longest]}
    return named | {"other": sum(spent.values()) - sum(named.values())}


def _function_name(code: CodeType | str) -> str:
    if isinstance(code, str):
        return code
    return f"{Path(code.co_filename).stem}.{code.co_qualname}"


def _worker_counts(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself; none for 0."""
    powers = {2**i for i in range(most.bit_length())}
    return sorted(powers | {most}) if most else []


def time_readers(clips: Clips, total: int, batch_size: int, num_workers: int) -> float:
    """Clips per second that `num_workers` readers hand over, each `total` clips or so.

    The first batch of each does not count: it is read while the processes start.
    """
    batch_size = min(batch_size, max(total // 4, 1))
    num_batches = num_workers * (1 + math.ceil(total / batch_size))
    keys = iter(range(num_batches * batch_size))
    batches = [[(key, 0) for key in islice(keys, batch_size)] for _ in range(num_batches)]
    arrivals = []
    for _ in make_loader(clips, batches, num_workers):
        arrivals.append(perf_counter())
    counted = arrivals[num_workers - 1 :]
    return (len(counted) - 1) * batch_size / (counted[-1] - counted[0])


def time_step(config: BenchmarkConfig) -> dict[str, Any]:
    """The median training step, on clips that are there already; on a CPU of two clips at most."""
    accelerator = make_accelerator(config.device)
    on_gpu = accelerator.device.type == "cuda"
    size = config.batch_size if accelerator.device.type != "cpu" else min(config.batch_size, 2)
    model = MemDPC(
        config.encoder,
        config.img_size,
        config.num_blocks,
        config.block_len,
        pred_steps=min(3, config.num_blocks - 1),
    )
    model = accelerator.prepare_model(model.to(accelerator.device))
    optimizer = torch.optim.Adam(model.parameters())
    batch = _synthetic_batch(config, size)
    if on_gpu:
        batch = {name: value.pin_memory() for name, value in batch.items()}

    def step() -> None:
        optimise(accelerator, optimizer, pretrain_step(model, batch)["loss"], 1e-4)
        if on_gpu:
            torch.cuda.synchronize()

    step()
    spent = median(seconds(step) for _ in range(10 if on_gpu else 2))
    device = torch.cuda.get_device_name() if on_gpu else accelerator.device.type
    return {"device": device, "clips": size, "clips_per_second": size / spent}


def _synthetic_batch(config: BenchmarkConfig, size: int) -> dict[str, torch.Tensor]:
    shape = (size, config.num_blocks, 3, config.block_len, config.img_size, config.img_size)
    unchanged = torch.tensor([1.0, 1.0, 1.0, 0.0, -1.0])  # the colours of a frame
    colours = unchanged.repeat(size, config.num_blocks * config.block_len, 1)
    return {"clip": torch.randint(256, shape, dtype=torch.uint8), "colour": colours}


# ---- results


def processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def facts_of(path: Path) -> dict[str, Any]:
    """The video, the machine, and versions."""
    facts = {
        "video": path.name,
        "video_bytes": path.stat().st_size,
        "processor": processor(),
        "machine_cores": cores(),
        "python": platform.python_version(),
        "memdpc": __version__,
    }
    return facts | {name: version(name) for name in ("torch", "av", "numpy")}


__all__ = ["Benchmark", "benchmark"]
