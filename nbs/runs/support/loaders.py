"""Other ways to read the clips that pretraining reads, and a race between them.

    python nbs/runs/support/loaders.py --video v_SoccerJuggling_g23_c01.avi --clips 600

writes nbs/runs/results/datapath.csv, which `nbs/runs/benchmark.ipynb` shows. Ways are compared on
the same clips (file, frames, crop, flip and colours) down to the finished float tensor, they take
turns round by round, and ratios are taken within a round: what else the machine does meets all.
`decord` and `torchcodec` take part where they are installed.
"""

import argparse
import csv
import math
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageEnhance

from memdpc.base.config import BenchmarkConfig
from memdpc.data.augment import MEAN, STD, Augment, normalize_clips
from memdpc.data.clips import Clips, draw_clip, frames_at, to_blocks
from memdpc.data.video import VideoInfo, read_frames
from memdpc.training.benchmark import clips_of, facts_of, one_thread
from memdpc.training.processes import make_loader

RESULTS = Path(__file__).parents[1] / "results" / "datapath.csv"
ROUNDS = 5


# ---- what all ways read


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a clip."""

    frames: np.ndarray  # indices in the video [N*T]
    crop: tuple[int, int, int, int]  # x, y, width, height
    flip: bool
    colours: np.ndarray | None  # [N*T, 5]; None: as they are


@dataclass(frozen=True)
class Material:
    """Clips of one video, and its frames as JPEG files; clip `number` is `clips[number, 0]`."""

    clips: Clips
    jpegs: Path | None = None  # folder of 0.jpg, 1.jpg, ...

    @property
    def path(self) -> str:
        return os.fspath(self.clips.videos.path(0))

    @property
    def info(self) -> VideoInfo:
        return self.clips.videos.videos[0].info

    def draw(self, number: int) -> Drawn:
        _, places, _, crop, flip, more = draw_clip(self.clips, number, 0)
        frames = frames_at(self.clips, self.info, places)
        return Drawn(frames, crop, flip, more.get("colour"))

    def without_colours(self) -> "Material":
        """The same crops and flips; colours as they are."""
        plain = Augment(brightness=0, contrast=0, saturation=0, hue=0, channel_copy=0)
        return replace(self, clips=replace(self.clips, augment=plain))


def material_of(config: BenchmarkConfig, path: Path, jpegs: Path | None = None) -> Material:
    """Clips in the config's sizes; with a folder `jpegs`, the video is unpacked there."""
    material = Material(clips_of(config, path), jpegs)
    if jpegs is not None:
        write_jpegs(material)
    return material


def write_jpegs(material: Material) -> None:
    """Unpack a video into JPEG files of quality 100, as the released code wants them."""
    frames = read_frames(material.path, range(material.info.frames))
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(f"{material.jpegs}/{i}.jpg", quality=100)


def finished(frames: np.ndarray, drawn: Drawn, num_blocks: int) -> torch.Tensor:
    """What the network gets, of scaled frames, uint8 [N*T, H, W, 3]: by this library's means."""
    if drawn.flip:
        frames = frames[:, :, ::-1]
    clip = torch.from_numpy(to_blocks(frames, num_blocks))[None]
    colours = None if drawn.colours is None else torch.from_numpy(drawn.colours)[None]
    return normalize_clips(clip, colours)


# ---- this library


def by_memdpc(material: Material, number: int) -> torch.Tensor:
    """This library, from the video file."""
    item = material.clips[number, 0]
    colours = torch.from_numpy(item["colour"])[None] if "colour" in item else None
    return normalize_clips(torch.from_numpy(item["clip"])[None], colours)


# ---- the released way: JPEG files and Pillow


def pillow_pictures(
    images: Sequence[Image.Image], drawn: Drawn, size: int, first: int | None = None
) -> list[Image.Image]:
    """Cropped, scaled (bilinear) and mirrored.

    With `first` they are scaled to that size, and from there to `size` by the nearest pixel.
    """
    x, y, width, height = drawn.crop
    pictures = []
    for image in images:
        image = image.crop((x, y, x + width, y + height))
        image = image.resize((first or size,) * 2, Image.Resampling.BILINEAR)
        if first:
            image = image.resize((size, size), Image.Resampling.NEAREST)
        if drawn.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pictures.append(image)
    return pictures


def pillow_hue(image: Image.Image, turn: float) -> Image.Image:
    """The hue turned in HSV."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def pillow_colours(
    image: Image.Image, numbers: Sequence[float], order: Sequence[int]
) -> Image.Image:
    """One picture with the colours that `numbers` [5] say, step by step in `order`."""
    *factors, turn, channel = numbers
    if channel >= 0:
        one = np.asarray(image)[..., int(channel)]
        image = Image.fromarray(np.dstack([one, one, one]))
    for step in order:
        if step == 3:
            image = pillow_hue(image, turn)
        else:
            image = ENHANCERS[step](image).enhance(factors[step])
    return image


def pillow_tensor(image: Image.Image) -> torch.Tensor:
    """A picture as floats, normalised: [3, H, W]."""
    mean = torch.tensor(MEAN).view(3, 1, 1)
    std = torch.tensor(STD).view(3, 1, 1)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return pixels.float().div_(255).sub_(mean).div_(std)


def by_pillow(material: Material, number: int, first: int | None = None) -> torch.Tensor:
    """JPEG files read and augmented by Pillow, the crop scaled once."""
    drawn = material.draw(number)
    images = [Image.open(f"{material.jpegs}/{i}.jpg").convert("RGB") for i in drawn.frames]
    images = pillow_pictures(images, drawn, material.clips.img_size, first)
    if drawn.colours is not None:
        rng = np.random.default_rng(number)
        numbers = drawn.colours.tolist()
        images = [
            pillow_colours(image, numbers[i], rng.permutation(4)) for i, image in enumerate(images)
        ]
    frames = torch.stack([pillow_tensor(image) for image in images])  # [N*T, 3, H, W]
    blocks = frames.unflatten(0, (material.clips.num_blocks, -1)).transpose(1, 2)
    return blocks[None].contiguous()


def by_released(material: Material, number: int) -> torch.Tensor:
    """The released way: the crop is scaled to 224x224 first."""
    return by_pillow(material, number, 224)


# ---- libraries that decode


def whole_scaled(
    crop: tuple[int, int, int, int], info: VideoInfo, size: int
) -> tuple[tuple[int, int], tuple[slice, slice]]:
    """`(width, height)` of the whole picture once its crop measures `size` x `size`.

    And the slices `(rows, columns)` that cut the crop out of it.
    """
    x, y, crop_width, crop_height = crop
    width = max(round(info.width * size / crop_width), size)
    height = max(round(info.height * size / crop_height), size)
    top = min(round(y * size / crop_height), height - size)
    left = min(round(x * size / crop_width), width - size)
    return (width, height), (slice(top, top + size), slice(left, left + size))


def decoded(path: str, wanted: Sequence[int], stream: int) -> dict[int, av.VideoFrame]:
    """The wanted frames, decoded from the start in one thread."""
    last = max(wanted)
    needed = set(wanted)
    found = {}
    with av.open(path) as container:
        container.streams[stream].codec_context.thread_count = 1
        for i, frame in enumerate(container.decode(container.streams[stream])):
            if i in needed:
                found[i] = frame
            if i == last:
                break
    return found


def by_pyav(material: Material, number: int) -> torch.Tensor:
    """Plain PyAV: decoded from the start, a scaler for each frame."""
    drawn = material.draw(number)
    (width, height), place = whole_scaled(drawn.crop, material.info, material.clips.img_size)
    frames = decoded(material.path, drawn.frames.tolist(), material.info.stream)
    scaled = {
        i: frame.to_ndarray(width=width, height=height, format="rgb24", threads=1)[place]
        for i, frame in frames.items()
    }
    pictures = np.stack([scaled[i] for i in drawn.frames])
    return finished(pictures, drawn, material.clips.num_blocks)


def by_decord(material: Material, number: int) -> torch.Tensor:
    """decord, which seeks, and scales whole pictures."""
    decord = import_module("decord")
    drawn = material.draw(number)
    (width, height), (rows, columns) = whole_scaled(
        drawn.crop, material.info, material.clips.img_size
    )
    reader = decord.VideoReader(
        material.path, ctx=decord.cpu(0), width=width, height=height, num_threads=1
    )
    frames = reader.get_batch(drawn.frames.tolist()).asnumpy()
    return finished(frames[:, rows, columns], drawn, material.clips.num_blocks)


def by_torchcodec(material: Material, number: int) -> torch.Tensor:
    """torchcodec, which seeks; its pictures are cropped and scaled by torch."""
    drawn = material.draw(number)
    x, y, width, height = drawn.crop
    size = material.clips.img_size
    decoder = import_module("torchcodec.decoders").VideoDecoder(material.path, num_ffmpeg_threads=1)
    frames = decoder.get_frames_at(drawn.frames.tolist()).data  # [N*T, 3, H, W]
    frames = torch.nn.functional.interpolate(
        frames[..., y : y + height, x : x + width], (size, size), mode="bilinear", antialias=True
    )
    return finished(frames.permute(0, 2, 3, 1).numpy(), drawn, material.clips.num_blocks)


Way = Callable[[Material, int], torch.Tensor]  # (material, number) -> [1, N, 3, T, H, W]

WAYS: dict[str, Way] = {
    "memdpc": by_memdpc,
    "released": by_released,
    "scaled once": by_pillow,
    "PyAV": by_pyav,
    "decord": by_decord,
    "torchcodec": by_torchcodec,
}


def one_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def why_not(way: str, material: Material) -> str:
    """Why a way cannot read the clips here, in one line; '' where it can."""
    try:
        WAYS[way](material, 0)
    except Exception as error:  # whatever a missing or broken library raises
        return one_line(error)
    return ""


# ---- do they show the same pictures?

RGB = (("format", "rgb24"),)  # colour repeated for 2x2 pixels
INTERPOLATED = (
    ("scale", "iw:ih:flags=bilinear+full_chroma_int+full_chroma_inp+accurate_rnd"),
    ("format", "gbrp"),
)


def filtered(frame: av.VideoFrame, steps: Sequence[tuple[str, str]]) -> np.ndarray:
    """A decoded frame through FFmpeg's filters, each (name, argument): uint8 [H, W, 3]."""
    graph = av.filter.Graph()
    shape = {"width": frame.width, "height": frame.height, "format": frame.format}
    nodes = [graph.add_buffer(**shape, time_base=1)]
    nodes += [graph.add(*step) for step in steps]
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    graph.vpush(frame)
    return graph.vpull().to_ndarray()


def by_ffmpeg(material: Material, number: int) -> torch.Tensor:
    """Cropped and scaled by FFmpeg, straight to rgb24."""
    drawn = material.draw(number)
    size = material.clips.img_size
    x, y, width, height = drawn.crop
    crop = ("crop", f"{width}:{height}:{x}:{y}:exact=1")
    steps = (crop, ("scale", f"{size}:{size}:flags=bilinear"), *RGB)
    frames = decoded(material.path, drawn.frames.tolist(), material.info.stream)
    pictures = np.stack([filtered(frames[i], steps) for i in drawn.frames])
    return finished(pictures, replace(drawn, colours=None), material.clips.num_blocks)


def by_reference(material: Material, number: int, rgb: Sequence[tuple[str, str]]) -> torch.Tensor:
    """What is right: the decoded picture as RGB, cropped and scaled by Pillow."""
    drawn = material.draw(number)
    frames = decoded(material.path, drawn.frames.tolist(), material.info.stream)
    images = [Image.fromarray(np.ascontiguousarray(filtered(frames[i], rgb))) for i in drawn.frames]
    unflipped = replace(drawn, flip=False)
    scaled = pillow_pictures(images, unflipped, material.clips.img_size)
    pictures = np.stack([np.asarray(picture) for picture in scaled])
    return finished(pictures, replace(drawn, colours=None), material.clips.num_blocks)


def decibels(one: torch.Tensor, other: torch.Tensor) -> float:
    """PSNR of two normalised clips in dB: 30 is close, 40 can hardly be seen."""
    apart = 255 * (one - other) * torch.tensor(STD).view(3, 1, 1, 1)
    return 10 * math.log10(255**2 / max(apart.square().mean().item(), 1e-9))


def quality(
    material: Material, ways: Sequence[str], count: int = 3
) -> dict[str, tuple[float, float]]:
    """`{way: (dB, dB)}`: PSNR against the reference of colour repeated, and interpolated.

    Medians over `count` clips.
    """
    plain = material.without_colours()
    makers = {way: WAYS[way] for way in ways} | {"FFmpeg, rgb24": by_ffmpeg}
    found = defaultdict(list)
    for number in range(count):
        references = [by_reference(plain, number, rgb) for rgb in (RGB, INTERPOLATED)]
        for name, make in makers.items():
            clip = make(plain, number)
            found[name].append([decibels(clip, reference) for reference in references])
    medians = {name: np.median(pairs, axis=0).round(1) for name, pairs in found.items()}
    return {name: tuple(pair.tolist()) for name, pair in medians.items()}


# ---- the race


@dataclass(frozen=True)
class Pace:
    """What one process did between its first batch, which does not count, and its last."""

    clips: int
    wall: float  # seconds
    cpu: float  # seconds of the processor's time, of all threads


class Timed:
    """A dataset of `read(key)`, which returns nothing of interest: who read it, and when."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> dict[str, float]:
        self.read(key)
        return {"process": os.getpid(), "wall": perf_counter(), "cpu": process_time()}


def pace(
    read: Callable[[Any], Any], keys: Sequence[Any], batch_size: int = 1, workers: int = 0
) -> list[Pace]:
    """The pace of each process that reads `keys`, as training's loader does."""
    batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    by_process = defaultdict(list)
    for batch in make_loader(Timed(read), batches, workers):
        by_process[batch["process"][0].item()].append(batch)
    found = []
    for first, *others in by_process.values():
        if others:
            clips = sum(len(batch["wall"]) for batch in others)
            wall = (others[-1]["wall"][-1] - first["wall"][-1]).item()
            cpu = (others[-1]["cpu"][-1] - first["cpu"][-1]).item()
            found.append(Pace(clips, wall, cpu))
    return found


def clips_per_second(paces: Sequence[Pace], clock: str = "wall") -> float:
    """Of all processes together, by their clock: 'wall' or 'cpu'."""
    return sum(one.clips / getattr(one, clock) for one in paces)


def race(
    material: Material,
    ways: Sequence[str],
    total: int,  # clips of each way, in all
    cores: int = 1,
    notes: dict[str, str] | None = None,  # a way that fails leaves the race, and this says why
) -> dict[str, list[float]]:
    """Clips per second of each way, one entry a round.

    On one core they are per second of processor time, in one thread of this process: what other
    programs take does not count. On several they are per second, by so many processes.
    """
    rates: dict[str, list[float]] = {way: [] for way in ways}
    share = max(total // (ROUNDS * cores), 1) * cores
    for turn in range(ROUNDS):
        numbers = range(turn * share, (turn + 1) * share + cores)  # each one's first is not counted
        for way in list(rates):
            try:
                rates[way].append(_speed(material, way, numbers, cores))
            except Exception as error:
                if notes is None or way in ("memdpc", "released"):
                    raise
                notes[way] = one_line(error)
                del rates[way]
    return rates


def _speed(material: Material, way: str, numbers: Sequence[int], cores: int) -> float:
    read = partial(WAYS[way], material)
    with one_thread():
        if cores > 1:
            return clips_per_second(pace(read, numbers, workers=cores))
        return clips_per_second(pace(read, numbers), "cpu")


def ratios(rates: dict[str, list[float]], way: str, other: str = "released") -> list[float]:
    """How many times as fast as `other` a way is, in each round."""
    return [a / b for a, b in zip(rates[way], rates[other], strict=True)]


def rows_of(rates: dict[str, list[float]], cores: int) -> list[dict[str, Any]]:
    """A row for each way: medians over rounds, and the lowest and highest ratio."""
    rows = []
    for way, speeds in rates.items():
        gain = ratios(rates, way)
        row = {"way": way, "cores": cores, "clips_per_second": median(speeds)}
        row |= {"ratio": median(gain), "ratio_min": min(gain), "ratio_max": max(gain), "note": ""}
        rows.append(row)
    return rows


def compare(material: Material, total: int, most_cores: int) -> list[dict[str, Any]]:
    """Race all ways on one core and on `most_cores`; rows of a table, and why some are missing."""
    missing = {way: why_not(way, material) for way in WAYS}
    notes = {way: note for way, note in missing.items() if note}
    rows = []
    for cores in sorted({1, max(1, most_cores)}):
        here = [way for way in WAYS if way not in notes]
        rows += rows_of(race(material, here, total, cores, notes), cores)
    return rows + [{"way": way, "note": note} for way, note in notes.items()]


def facts(material: Material) -> dict[str, Any]:
    """Commit, video, machine and versions."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    jpegs = list(material.jpegs.iterdir()) if material.jpegs else []
    return facts_of(Path(material.path)) | {
        "commit": done.stdout.strip(),
        "jpeg_bytes": sum(path.stat().st_size for path in jpegs),
        "threads": torch.get_num_threads(),
        "pillow": version("pillow"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=600, help="clips that each way reads")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        material = material_of(BenchmarkConfig(), options.video, Path(folder))
        rows = compare(material, options.clips, options.cores)
        table = [row | facts(material) for row in rows]
        print(quality(material, [row["way"] for row in rows if row["note"] == ""]))
    with open(options.out, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
