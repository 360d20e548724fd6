"""Where a clip's time goes, and how many cores a GPU needs"""

import csv
import json
import logging
import math
import os
import platform
import re
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from types import GeneratorType

import av
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import default_collate

from memdpc import __version__
from memdpc.base.config import BenchmarkConfig, save_config
from memdpc.base.errors import ConfigError
from memdpc.base.files import atomic_write
from memdpc.base.viz import curves, use_style
from memdpc.data import clips, video
from memdpc.data.augment import MEAN, STD, Augment, normalize_clips
from memdpc.data.clips import Clips
from memdpc.data.videos import Packed, Video, VideoList
from memdpc.method.model import MemDPC
from memdpc.training.loop import optimise
from memdpc.training.pretrain import compute
from memdpc.training.processes import cores, make_accelerator, make_loader

logger = logging.getLogger(__name__)


def grain(rng, height, width):
    "Noise whose amplitudes fall with the frequency, much alike in the three colours: float [height, width, 3], mean 0, deviation about 1"
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))[..., None]
    waves = (
        np.fft.fft2(rng.standard_normal((height, width, 4)), axes=(0, 1))
        / np.maximum(frequency, 1 / width) ** 1.2
    )
    noise = np.fft.ifft2(waves, axes=(0, 1)).real
    noise = (noise - noise.mean((0, 1))) / noise.std((0, 1))
    return 0.9 * noise[..., :1] + 0.4 * noise[..., 1:]


def natural_frames(num_frames=240, height=240, width=320):
    "A textured ground that drifts, a textured ball that circles, and a little noise as of a camera: uint8 [T, H, W, 3]"
    rng, t = np.random.default_rng(0), np.arange(num_frames)
    ground, ball = (120 + 40 * grain(rng, size, size) for size in (512, 128))
    y, x = np.mgrid[:128, :128] - 64
    disc, frames = (
        (np.hypot(x, y) < 48)[..., None],
        np.empty((num_frames, height, width, 3), np.uint8),
    )
    down, right = (
        (60 + 40 * np.sin(t / 23)).astype(int),
        (90 + 60 * np.sin(t / 31)).astype(int),
    )  # where the ground stands
    for frame, i in zip(frames, t):
        picture = ground[
            down[i] : down[i] + height, right[i] : right[i] + width
        ] + 2 * rng.standard_normal((height, width, 1))
        top, left = int(56 + 50 * math.sin(i / 11)), int(96 + 90 * math.cos(i / 11))
        picture[top : top + 128, left : left + 128] = np.where(
            disc, ball[::-1] + 30, picture[top : top + 128, left : left + 128]
        )
        frame[:] = picture.clip(0, 255)
    return frames


def make_video(path):
    "Write a video like UCF101's: 320x240, MPEG-4 part 2, a keyframe at every twelfth of 240 frames, some 420 kbit/s"
    video.write_video(path, natural_frames(), 25, "mpeg4", {"g": "12", "b": "420k", "bf": "0"})


@dataclass(frozen=True)
class Material:
    "What every way reads: clips of one video, and its frames as JPEG files. Clip `number` is `clips[number, 0]`"

    clips: Clips  # of one video
    jpegs: str = ""  # folder of 0.jpg, 1.jpg, ...

    @property
    def path(self):
        return os.fspath(self.clips.videos.path(0))

    @property
    def info(self):
        return self.clips.videos.videos[0].info

    def draw(self, number):
        "`(frames [N*T], crop, flip, colours [N*T, 5])` of a clip; None for colours that stay as they are"
        video, places, _, crop, flip, extra = clips.draw_clip(self.clips, number, 0)
        return clips.frames_at(self.clips, video.info, places), crop, flip, extra.get("colour")


def material_from(config, path, jpegs=""):
    "The `Material` of the video at `path`, in the config's sizes, with the paper's augmentation; raises `VideoError`"
    path = Path(path)
    videos = VideoList(
        "folder", path.parent, (), Packed([Video(path.name, -1, "", video.probe(path))])
    )
    return Material(
        Clips(
            videos,
            config.num_blocks,
            config.block_len,
            config.frame_stride,
            config.img_size,
            config.seed,
            Augment(),
        ),
        jpegs,
    )


def write_jpegs(path, folder):
    "Unpack a video into JPEG files of quality 100, as the released code wants them; returns their bytes on disk"
    Image, scaler, total = library("PIL.Image"), video.Scaler(), 0
    with video.open_video(path) as (container, stream):
        for i, frame in enumerate(video.decoded_frames(container, stream)):
            Image.fromarray(scaler(frame)).save(file := Path(folder) / f"{i}.jpg", quality=100)
            total += file.stat().st_size
    return total


def library(name):
    "A module that is needed for a comparison only"
    return import_module(name)


def reason(error):
    "An error in one line; one from a worker process brings its traceback, whose end is meant"
    lines = str(error).strip().splitlines() or [""]
    return (
        re.findall(r"^[\w.]+: .*", str(error), re.M)[-1]
        if lines[0].startswith("Caught ")
        else f"{type(error).__name__}: {lines[0]}"
    )


def why_not(way, material):
    "Why a way cannot read the clips here, in one line; '' where it can"
    try:
        WAYS[way](material, 0)
    except Exception as error:
        return reason(error)
    return ""


def finish(frames, flip, colour, num_blocks):
    "Scaled frames, uint8 [N*T, H, W, 3], to what the network gets, by this library's own means"
    if flip:
        frames = frames[:, :, ::-1]
    return normalize_clips(
        torch.from_numpy(clips.to_blocks(frames, num_blocks))[None],
        None if colour is None else torch.from_numpy(colour)[None],
    )


def by_memdpc(material, number):
    "This library, from the video file"
    item = material.clips[number, 0]
    return normalize_clips(
        torch.from_numpy(item["clip"])[None],
        torch.from_numpy(item["colour"])[None] if "colour" in item else None,
    )


def pillow_frames(images, crop, size, flip, first=None):
    "Pillow pictures: cropped, scaled (bilinear; with `first`, to that size, and from there to `size` by the nearest pixel), mirrored"
    Image, (x, y, width, height) = library("PIL.Image"), crop
    images = [
        image.crop((x, y, x + width, y + height)).resize(
            (first or size,) * 2, Image.Resampling.BILINEAR
        )
        for image in images
    ]
    if first:
        images = [image.resize((size, size), Image.Resampling.NEAREST) for image in images]
    return (
        [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images] if flip else images
    )


def pillow_hue(image, turn):
    "The hue turned in HSV"
    Image, (hue, saturation, value) = library("PIL.Image"), image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def pillow_colours(image, numbers, order):
    "One picture with the colours that `numbers [5]` say, step by step in `order`"
    Image, Enhance = library("PIL.Image"), library("PIL.ImageEnhance")
    *factors, turn, channel = numbers
    if channel >= 0:
        image = Image.fromarray(np.dstack([np.asarray(image)[..., int(channel)]] * 3))
    for step in order:
        image = (
            pillow_hue(image, turn)
            if step == 3
            else getattr(Enhance, ENHANCERS[step])(image).enhance(factors[step])
        )
    return image


ENHANCERS = "Brightness", "Contrast", "Color"


def pillow_tensor(image):
    "A picture as floats, normalised: [3, H, W]"
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (
        torch.from_numpy(np.array(image))
        .permute(2, 0, 1)
        .contiguous()
        .float()
        .div_(255)
        .sub_(mean)
        .div_(std)
    )


def by_pillow(material, number, first=None):
    "JPEG files read and augmented by Pillow"
    (wanted, crop, flip, colour), rng = material.draw(number), np.random.default_rng(number)
    images = [library("PIL.Image").open(f"{material.jpegs}/{i}.jpg").convert("RGB") for i in wanted]
    images = pillow_frames(images, crop, material.clips.img_size, flip, first)
    if colour is not None:
        images = [
            pillow_colours(image, numbers, rng.permutation(4))
            for image, numbers in zip(images, colour.tolist())
        ]
    return (
        torch.stack([pillow_tensor(image) for image in images])
        .unflatten(0, (material.clips.num_blocks, -1))
        .transpose(1, 2)[None]
        .contiguous()
    )


def by_released(material, number):
    "The released way: the crop to 224x224 first"
    return by_pillow(material, number, 224)


def whole_scaled(crop, info, size):
    "`(width, height)` of the whole picture once its crop measures `size` x `size`, and the slices that cut it out: `(rows, columns)`"
    x, y, w, h = crop
    width, height = (
        max(round(info.width * size / w), size),
        max(round(info.height * size / h), size),
    )
    top, left = min(round(y * size / h), height - size), min(round(x * size / w), width - size)
    return (width, height), (slice(top, top + size), slice(left, left + size))


def by_pyav(material, number):
    "Plain PyAV: decoded from the start, a scaler for each frame"
    wanted, crop, flip, colour = material.draw(number)
    (width, height), (rows, columns) = whole_scaled(crop, material.info, material.clips.img_size)
    pictures, needed = {}, set(wanted.tolist())
    with av.open(material.path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for i, frame in enumerate(container.decode(video=0)):
            if i in needed:
                pictures[i] = frame.to_ndarray(
                    width=width, height=height, format="rgb24", threads=1
                )[rows, columns]
            if i == wanted[-1]:
                break
    return finish(np.stack([pictures[i] for i in wanted]), flip, colour, material.clips.num_blocks)


def by_decord(material, number):
    "decord, which seeks, and scales whole pictures"
    decord, (wanted, crop, flip, colour) = library("decord"), material.draw(number)
    (width, height), (rows, columns) = whole_scaled(crop, material.info, material.clips.img_size)
    reader = decord.VideoReader(
        material.path, ctx=decord.cpu(0), width=width, height=height, num_threads=1
    )
    return finish(
        reader.get_batch(wanted.tolist()).asnumpy()[:, rows, columns],
        flip,
        colour,
        material.clips.num_blocks,
    )


def by_torchcodec(material, number):
    "torchcodec, which seeks; its pictures are cropped and scaled by torch"
    (wanted, (x, y, w, h), flip, colour), size = material.draw(number), material.clips.img_size
    frames = (
        library("torchcodec.decoders")
        .VideoDecoder(material.path, num_ffmpeg_threads=1)
        .get_frames_at(wanted.tolist())
        .data
    )
    frames = torch.nn.functional.interpolate(
        frames[..., y : y + h, x : x + w], (size, size), mode="bilinear", antialias=True
    )
    return finish(frames.permute(0, 2, 3, 1).numpy(), flip, colour, material.clips.num_blocks)


WAYS = {
    "memdpc": by_memdpc,
    "released": by_released,
    "scaled once": by_pillow,
    "PyAV": by_pyav,
    "decord": by_decord,
    "torchcodec": by_torchcodec,
}

INTERPOLATED = (
    ("scale", "iw:ih:flags=bilinear+full_chroma_int+full_chroma_inp+accurate_rnd"),
    ("format", "gbrp"),
)


def through(frame, *steps):
    "A decoded frame through FFmpeg's filters, each (name, argument): uint8 [H, W, 3]"
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=1
    )
    graph.link_nodes(
        source,
        *[graph.add(*step) for step in (*video.upright(frame), *steps, ("buffersink", None))],
    ).configure()
    graph.vpush(frame)
    return video.pixels(graph.vpull())


def by_filters(material, number, steps=(), rgb=(("format", "rgb24"),)):
    "Decoded pictures through FFmpeg's filters: scaled by `steps`, or turned to `rgb` and scaled by Pillow"
    (wanted, crop, flip, _), size = material.draw(number), material.clips.img_size
    with video.open_video(material.path) as (container, stream):
        frames = {
            i: frame
            for i, frame in zip(range(wanted[-1] + 1), video.decoded_frames(container, stream))
            if i in wanted
        }
    if steps:
        pictures = [
            through(frames[i], ("crop", "{2}:{3}:{0}:{1}:exact=1".format(*crop)), *steps)
            for i in wanted
        ]
    else:
        images = [
            library("PIL.Image").fromarray(np.ascontiguousarray(through(frames[i], *rgb)))
            for i in wanted
        ]
        pictures = [np.asarray(image) for image in pillow_frames(images, crop, size, False)]
    return finish(np.stack(pictures), flip, None, material.clips.num_blocks)


def colourless(material):
    "The same crops and flips, colours as they are"
    return replace(
        material,
        clips=replace(
            material.clips,
            augment=Augment(brightness=0, contrast=0, saturation=0, hue=0, channel_copy=0),
        ),
    )


def decibels(one, other):
    "PSNR of two normalised clips in dB"
    apart = 255 * (one - other) * torch.tensor(STD).view(3, 1, 1, 1)
    return 10 * math.log10(255**2 / max(apart.square().mean().item(), 1e-9))


def quality(material, ways, count=3):
    "`{way: (dB, dB)}`: PSNR of its pictures against those that Pillow scaled, of colour repeated and interpolated; median over `count` clips"
    plain, size = colourless(material), material.clips.img_size
    makers = {way: WAYS[way] for way in ways} | {
        "FFmpeg, rgb24": partial(
            by_filters, steps=(("scale", f"{size}:{size}:flags=bilinear"), ("format", "rgb24"))
        )
    }
    right = [
        [by_filters(plain, n, rgb=rgb) for rgb in ((("format", "rgb24"),), INTERPOLATED)]
        for n in range(count)
    ]
    table = {
        name: [[decibels(make(plain, n), picture) for picture in right[n]] for n in range(count)]
        for name, make in makers.items()
    }
    return {
        name: tuple(round(median(column), 1) for column in zip(*rows))
        for name, rows in table.items()
    }


class Watched:
    "A dataset of `read(key)`, a dict, with the process that read it and what its clocks said when it was done"

    def __init__(self, read):
        self.read = read

    def __getitem__(self, key):
        return self.read(key) | {
            "process": os.getpid(),
            "wall": perf_counter(),
            "cpu": process_time(),
        }


def pace(read, keys, batch_size=1, workers=0):
    "`{'clips', 'wall', 'cpu', 'busy'}` (seconds) of each process that reads `keys`, as training's loader does; its first batch does not count"
    groups, seen = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)], {}
    for batch in make_loader(Watched(read), groups, workers):
        row = {
            "clips": len(batch["wall"]),
            "wall": batch["wall"][-1].item(),
            "cpu": batch["cpu"][-1].item(),
            "busy": batch["busy"].sum().item(),
        }
        seen.setdefault(batch["process"][0].item(), []).append(row)
    return [
        {
            name: sum(row[name] for row in rows[1:])
            if name in ("clips", "busy")
            else rows[-1][name] - rows[0][name]
            for name in rows[0]
        }
        for rows in seen.values()
        if len(rows) > 1
    ]


def clips_per_second(processes, clock="wall"):
    "Of all `processes` together, by their `clock`: 'wall' or 'cpu'"
    return sum(process["clips"] / process[clock] for process in processes)


@contextmanager
def one_thread():
    "torch computes with one thread, as it does in a loader's processes"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def made(way, material, number):
    "Make a clip by a way, and let it go"
    WAYS[way](material, number)
    return {"busy": 0.0}


ROUNDS = 5


def race(material, ways, total, cores=1, notes=None):
    """Clips per second of each way, a list with one entry a round; `total` clips each in all.

    `cores=1`: per second of processor time, in one thread of this process. More: per second, by so many processes. A way that fails in mid-race
    leaves it, and `notes`, a dict, says why; without `notes` its error is raised.
    """
    rates, share = {way: [] for way in ways}, max(total // (ROUNDS * cores), 1)
    workers, clock = (cores, "wall") if cores > 1 else (0, "cpu")
    with one_thread():
        for turn in range(ROUNDS):
            numbers = list(
                range(turn * share * cores, (turn + 1) * share * cores + cores)
            )  # of each process the first does not count
            for way in list(rates):
                try:
                    rates[way].append(
                        clips_per_second(
                            pace(partial(made, way, material), numbers, workers=workers), clock
                        )
                    )
                except Exception as error:
                    if notes is None or way in ("memdpc", "released"):
                        raise
                    notes[way] = reason(error)
                    del rates[way]
    return rates


def ratios(rates, way, other="released"):
    "How many times as fast as `other` a way is, in each round"
    return [a / b for a, b in zip(rates[way], rates[other])]


class Stopwatch:
    "Seconds by stage; time counts for the innermost stage that is under way, or as 'other'"

    def __init__(self):
        self.spent, self.stack, self.since = dict.fromkeys(READING, 0.0), ["other"], perf_counter()

    def switch(self, stage=None):
        "Begin a stage, or (None) end the innermost"
        now = perf_counter()
        self.spent[self.stack[-1]] += now - self.since
        self.since = now
        self.stack.append(stage) if stage else self.stack.pop()

    def around(self, function, stage):
        "`function`, with its time, and that of every step of a generator that it gives, put down to `stage`"

        def watched(*args, **more):
            self.switch(stage)
            try:
                result = function(*args, **more)
            finally:
                self.switch()
            return self.steps(result, stage) if isinstance(result, GeneratorType) else result

        return watched

    def steps(self, generator, stage):
        try:
            while True:
                self.switch(stage)
                try:
                    value = next(generator)
                except StopIteration:
                    return
                finally:
                    self.switch()
                yield value
        finally:
            generator.close()


STAGES = {  # of a clip, and what runs in it
    "open": [(video, "open_video")],
    "seek": [(video, "frames_from")],
    "decode": [(video, "decoded_frames")],
    "scale": [(video.Scaler, "__call__")],
    "copy": [(video, "pixels"), (clips, "read_frames"), (clips, "to_blocks")],
    "draw": [(Augment, "draw")],
    "other": [(video, "pictures_at")],
}
READING = tuple(STAGES)


@contextmanager
def stopwatch():
    "Within `with stopwatch() as watch:` the time of all that is read in this process is put down to its stage, in `watch.spent`"
    watch, before = Stopwatch(), []
    for stage, places in STAGES.items():
        for place, name in places:
            function = getattr(place, name)
            before.append((place, name, function))
            inner = getattr(
                function, "__wrapped__", None
            )  # open_video is a context manager, made of a generator
            setattr(
                place,
                name,
                contextmanager(watch.around(inner, stage))
                if inner
                else watch.around(function, stage),
            )
    try:
        yield watch
    finally:
        watch.switch("other")
        for place, name, function in before:
            setattr(place, name, function)


def ready(item, key):
    "A clip that need not be read"
    return item | {"busy": 0.0}


def seconds(function, *args):
    "The time of a call"
    start = perf_counter()
    function(*args)
    return perf_counter() - start


def stage_times(material, total, batch_size, workers):
    "Milliseconds that a clip spends in each stage, medians over `total` clips; the transfer only where there are `workers`"
    rows, items = [], []
    with one_thread():
        for number in range(total):
            with stopwatch() as watch:
                items.append(material.clips[number, 0])
            rows.append(watch.spent)
        items = items[:batch_size]
        collate = median(seconds(default_collate, items) / len(items) for _ in range(5))
        one = default_collate(items[:1])
        colour = median(seconds(normalize_clips, one["clip"], one["colour"]) for _ in range(total))
    spent = {stage: median(row[stage] for row in rows) for stage in READING} | {"collate": collate}
    if workers:
        (process,) = pace(partial(ready, items[0]), [0] * (6 * batch_size), batch_size, 1)
        spent["transfer"] = max(process["cpu"] / process["clips"] - collate, 0)
    return {stage: 1000 * value for stage, value in (spent | {"colour": colour}).items()}


def draw_stages(spent, axis=None):
    "A clip's time, stage by stage, as one bar; returns the axes"
    use_style()
    axis, left, total = axis or plt.subplots(figsize=(7, 2))[1], 0, sum(spent.values())
    colours = plt.colormaps["tab20"](np.arange(len(spent)) / 20)
    for (stage, value), colour in zip(spent.items(), colours):
        axis.barh(0, value, left=left, color=colour, label=f"{stage} {value / total:.0%}")
        left += value
    axis.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.6))
    axis.set(
        title=f"A clip takes {total:.1f} ms on one core",
        xlabel="milliseconds",
        yticks=[],
        xlim=(0, total),
    )
    return axis


def staged(made, key):
    "A clip, and the seconds of it that were spent on decoding and scaling"
    with stopwatch() as watch:
        item = made[key]
    return item | {"busy": watch.spent["decode"] + watch.spent["scale"]}


def worker_rows(material, total, batch_size, workers):
    "For 1, 2, 4, ... worker processes: clips per second, and of the workers' time the share on the CPU and that of decoding and scaling"
    rows = []
    for count in sorted({workers} | {2**i for i in range(workers.bit_length())}) if workers else ():
        keys = [
            (i, 0) for i in range(count * (total + batch_size))
        ]  # of each worker the first batch does not count
        processes = pace(partial(staged, material.clips), keys, batch_size, count)
        wall, cpu, busy = (
            sum(process[name] for process in processes) for name in ("wall", "cpu", "busy")
        )
        rows.append(
            {
                "workers": count,
                "clips_per_second": clips_per_second(processes),
                "cpu_share": cpu / wall,
                "decode_scale_share": busy / wall,
            }
        )
    return rows


def draw_workers(rows, axis=None):
    "Clips per second against workers, beside so many times what one gives; returns the axes"
    counts, rates = ([row[name] for row in rows] for name in ("workers", "clips_per_second"))
    axis = curves(
        {
            "measured": (counts, rates),
            "so many times one worker": (counts, [count * rates[0] for count in counts]),
        },
        "Does every worker add its share?",
        "worker processes",
        "clips per second",
        axis,
        marker="o",
    )
    axis.set(ylim=(0, None), xticks=counts)
    return axis


def training_step(config):
    "`{'device', 'clips', 'clips_per_second'}` of the median training step, from synthetic clips that are there already; on a CPU of two clips"
    accelerator = make_accelerator(config.device)
    device, size = (
        accelerator.device,
        config.batch_size if accelerator.device.type != "cpu" else min(config.batch_size, 2),
    )
    model = MemDPC(
        config.encoder,
        config.img_size,
        config.num_blocks,
        config.block_len,
        min(3, config.num_blocks - 1),
    ).to(device)
    model, optimizer = accelerator.prepare_model(model), torch.optim.Adam(model.parameters())
    clip = torch.randint(
        256,
        (size, config.num_blocks, 3, config.block_len, config.img_size, config.img_size),
        dtype=torch.uint8,
    )
    batch = {
        "clip": clip,
        "colour": torch.tensor([1.0, 1, 1, 0, -1]).repeat(
            size, config.num_blocks * config.block_len, 1
        ),
    }
    if device.type == "cuda":
        batch = {name: value.pin_memory() for name, value in batch.items()}

    def step():
        optimise(accelerator, optimizer, compute(model, batch)["loss"], 1e-4)
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    spent = median(seconds(step) for _ in range(2 if device.type == "cpu" else 10))
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    return {"device": name, "clips": size, "clips_per_second": size / spent}


def draw_cores(per_core, step=None, axis=None):
    "How many cores feed a GPU, against its speed; `per_core`: {way: clips per second of a core}; `step`: this device's; returns the axes"
    speeds = np.linspace(50, 2000, 40)
    lines = {
        f"{way}: {rate:.0f} clips/s a core": (speeds, speeds / rate)
        for way, rate in per_core.items()
    }
    axis = curves(
        lines, "So many cores feed one GPU", "clips per second that the GPU takes", "cores", axis
    )
    if step and step["device"] != "cpu":
        axis.axvline(step["clips_per_second"], color="0.5", linestyle="--", label=step["device"])
    axis.set(xlim=(0, 2000), ylim=(0, None))
    axis.legend()
    return axis


@dataclass
class Benchmark:
    "What `benchmark` found; its text is a table"

    rates: dict  # {cores: {way: [clips per second, one for each round]}}
    notes: dict  # {way: why it is left out}
    stages: dict  # {stage: milliseconds}
    workers: list  # of `worker_rows`
    step: dict  # of `training_step`
    quality: dict  # {way: (dB, dB)}
    facts: dict  # video, machine, versions

    def rows(self):
        "A dict for each way and number of cores"
        table = []
        for cores, rates in self.rates.items():
            for way in rates:
                gain = ratios(rates, way)
                table.append(
                    {
                        "way": way,
                        "cores": cores,
                        "clips_per_second": median(rates[way]),
                        "ratio": median(gain),
                        "ratio_min": min(gain),
                        "ratio_max": max(gain),
                        "note": "",
                    }
                )
        return table + [{"way": way, "note": note} for way, note in self.notes.items()]

    @property
    def per_core(self):
        "{way: clips per second of a core} with all cores at work: ours reads only (the device does the colours), the released way makes tensors"
        cores = max(self.rates)
        ours = (
            self.workers[-1]["clips_per_second"] / self.workers[-1]["workers"]
            if self.workers
            else median(self.rates[1]["memdpc"])
        )
        return {"memdpc": ours, "released": median(self.rates[cores]["released"]) / cores}

    def __str__(self):
        return "\n".join([table_text(self.rows()), "", *summary(self)])


def table_text(rows):
    "Rows of a benchmark as text"
    lines = [f"{'way':12}{'cores':>6}{'clips/s':>9}{'times the released way':>24}"]
    for row in rows:
        if row["note"]:
            lines.append(f"{row['way']:12}  not here: {row['note']}")
        else:
            lines.append(
                f"{row['way']:12}{row['cores']:6}{row['clips_per_second']:9.1f}{row['ratio']:12.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
            )
    return "\n".join(lines)


def summary(found):
    "What a benchmark found besides, in lines"
    total, facts = sum(found.stages.values()), found.facts
    yield f"{facts['video']}: {facts['video_bytes']:,} bytes; as JPEG files {facts['jpeg_bytes']:,}"
    yield f"a clip: {total:.1f} ms, " + ", ".join(
        f"{stage} {value / total:.0%}" for stage, value in found.stages.items()
    )
    for row in found.workers:
        yield (
            f"{row['workers']} worker processes: {row['clips_per_second']:.1f} clips/s, {row['cpu_share']:.1%} of their time on the CPU, "
            f"{row['decode_scale_share']:.1%} decoding and scaling"
        )
    yield f"training step on {found.step['device']}: {found.step['clips_per_second']:.2f} clips/s, {found.step['clips']} at a time"
    yield "cores for a GPU of 500 clips/s: " + ", ".join(
        f"{way} {500 / rate:.0f}" for way, rate in found.per_core.items()
    )
    yield "PSNR in dB (colour repeated, interpolated): " + ", ".join(
        f"{way} {a} {b}" for way, (a, b) in found.quality.items()
    )
    yield f"{facts['processor']}, {facts['machine_cores']} cores; torch {facts['torch']}, PyAV {facts['av']}, Pillow {facts['pillow']}"


def processor():
    "What the processor calls itself"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


def facts_of(material, jpeg_bytes):
    "The video and the machine of a benchmark, and versions"
    versions = {name: version(name) for name in ("torch", "av", "numpy", "pillow")}
    return {
        "video": Path(material.path).name,
        "video_bytes": os.path.getsize(material.path),
        "jpeg_bytes": jpeg_bytes,
        "processor": processor(),
        "machine_cores": cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "memdpc": __version__,
    } | versions


def write_benchmark(found, config):
    "`config.json`, `benchmark.csv`, `metrics.json` and `figures/` in `config.out`"
    out = Path(config.out)
    with atomic_write(out / "config.json") as aside:
        save_config(config, aside)
    rows = [row | found.facts for row in found.rows()]
    with (
        atomic_write(out / "benchmark.csv") as aside,
        open(aside, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()}
            for row in rows
        )
    for name, draw, values in (
        ("stages", draw_stages, found.stages),
        ("workers", draw_workers, found.workers),
        ("cores", draw_cores, found.per_core),
    ):
        if not values:
            continue
        draw(values).figure.savefig(out / "figures" / f"{name}.png")
        plt.close()
    with atomic_write(out / "metrics.json") as aside:
        aside.write_text(json.dumps(asdict(found), indent=2) + "\n")


def measure(config, path, jpegs):
    "All measurements for the video at `path`; its JPEG files go into the folder `jpegs`"
    material = material_from(config, path, jpegs)
    Path(config.out, "figures").mkdir(parents=True, exist_ok=True)  # says now where that cannot be
    jpeg_bytes, cores, batch_size = (
        write_jpegs(path, jpegs),
        config.num_workers,
        min(config.batch_size, max(config.clips // 4, 1)),
    )
    logger.info(
        "%s: %d frames, unpacked to %d bytes of JPEG files", path, material.info.frames, jpeg_bytes
    )
    notes = {way: note for way in WAYS if (note := why_not(way, material))}
    here, rates = [way for way in WAYS if way not in notes], {}
    for count in sorted({1, max(cores, 1)}):
        logger.info("%d rounds of %s on %d cores", ROUNDS, ", ".join(here), count)
        rates[count] = race(
            material, [way for way in here if way not in notes], config.clips, count, notes
        )
    logger.info("stages of a clip, workers, pictures")
    stages, workers = (
        stage_times(material, config.clips, batch_size, cores),
        worker_rows(material, config.clips, batch_size, cores),
    )
    agree = quality(material, [way for way in here if way not in notes])
    logger.info("training step of %s", config.encoder)
    return Benchmark(
        rates, notes, stages, workers, training_step(config), agree, facts_of(material, jpeg_bytes)
    )


def benchmark(config: BenchmarkConfig):
    "Measure the data path and a training step as `config` says, write the results to `config.out`, and return them as a `Benchmark`"
    if not config.out:
        raise ConfigError("no out: name the folder for the results")
    if not Path(config.out, "benchmark.csv").exists() and any(
        Path(config.out, name).exists() for name in ("config.json", "metrics.json")
    ):
        raise ConfigError(f"{config.out}: holds results of another job; choose another out")
    with tempfile.TemporaryDirectory() as folder:
        if not config.video:
            make_video(Path(folder) / "made.avi")
        os.mkdir(jpegs := os.path.join(folder, "jpegs"))
        found = measure(config, config.video or Path(folder) / "made.avi", jpegs)
    write_benchmark(found, config)
    return found
