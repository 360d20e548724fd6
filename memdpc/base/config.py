"""one frozen dataclass per job feeds the function, the command line, the notebook's parameters and the run's config.json"""

import contextlib
import io
import json
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from memdpc.base.errors import ConfigError
from memdpc.base.files import read_json

RANGES = {  # field: (smallest, largest) value that makes sense
    "split": (1, 3),
    "img_size": (16, 4096),
    "num_blocks": (2, 1000),
    "block_len": (1, 1000),
    "frame_stride": (1, 1000),
    "time_stride": (0.001, 60),
    "pred_steps": (1, 999),
    "mem_size": (0, 10_000_000),
    "dropout": (0, 0.999),
    "address_gain": (1e-6, 1e6),
    "batch_size": (1, 100_000),
    "epochs": (1, 1_000_000),
    "max_steps": (1, 10**9),
    "lr": (0, 100),
    "weight_decay": (0, 100),
    "milestones": (1, 1_000_000),
    "warmup_steps": (0, 10**9),
    "min_area": (0.01, 1),
    "flip": (0, 1),
    "jitter": (0, 2),
    "val_fraction": (0, 0.9),
    "val_every": (1, 1_000_000),
    "log_every": (1, 10**9),
    "checkpoint_every": (1, 10**9),
    "seed": (0, 2**31 - 1),
    "num_workers": (0, 1024),
    "clips_per_video": (1, 1000),
    "videos_per_class": (1, 10**6),
    "time_limit": (1, 86_400),
    "short_side": (16, 4096),
    "crf": (0, 51),
    "clips": (1, 100_000),
    "k": (1, 10**6),
    "label_fraction": (1e-6, 1),
    "draw": (0, 10**6),
    "backbone_lr": (0, 1),
    "slots": (0, 10_000_000),
    "stages": (1, 100),
    "classes": (1, 10),
    "example": (0, 10**9),
    "transition_share": (0.01, 0.99),
}


def check_ranges(config):
    "Raise `ConfigError` for the first field of a config whose value lies outside its range."
    for field in fields(config):
        low, high = RANGES.get(field.name, (None, None))
        value = getattr(config, field.name)
        for v in value if isinstance(value, tuple) else (value,):
            if low is not None and v is not None and not low <= v <= high:
                raise ConfigError(f"{field.name} must lie in {low:g}..{high:g}, got {v}")
    if hasattr(config, "pred_steps") and config.pred_steps >= config.num_blocks:
        raise ConfigError(
            f"pred_steps must be below num_blocks, got {config.pred_steps} of {config.num_blocks} blocks"
        )


@dataclass(frozen=True)
class PretrainConfig:
    "Pretrain MemDPC on a folder of videos."

    dataset: str = "ucf101"  # ucf101, hmdb51, kinetics400, oops, oops-filtered or folder
    root: str = ""  # the dataset's folder
    out: str = ""  # the run's folder
    split: int = 1  # which of the dataset's splits: its training part is used
    encoder: str = "resnet18"  # tiny, resnet18, resnet34, resnet50, or one from a plugin
    img_size: int = 128  # height and width of the frames, pixels
    num_blocks: int = 8  # N, blocks in a clip
    block_len: int = 5  # T, frames in a block
    frame_stride: int = 3  # every n-th frame is used
    time_stride: float | None = None  # seconds from frame to frame instead, whatever the frame rate
    pred_steps: int = 3  # P, blocks to predict
    mem_size: int = 1024  # K, slots; 0: no memory (DPC)
    predictor: str = "memory"  # from context to prediction: memory, direct, or one from a plugin
    loss: str = "contrastive"  # contrastive, or one from a plugin
    bidirectional: bool = True  # predict the past from the future as well
    dropout: float = 0.1  # on the aggregators' states
    address_gain: float = 0.1  # gain of phi's last layer at the start
    batch_size: int = 16  # clips per process: the contrastive problem
    epochs: int = 500  # passes over the training videos
    max_steps: int | None = None  # stop after so many optimiser steps, if that is sooner
    lr: float = 1e-3  # Adam's learning rate
    weight_decay: float = 1e-5  # on every parameter
    milestones: tuple[int, ...] = ()  # epochs at which the learning rate falls to a tenth
    warmup_steps: int = 0  # steps of linear rise to lr
    cosine: bool = False  # let the learning rate fall along half a cosine to zero
    min_area: float = 0.5  # smallest crop, share of the frame; 1: the whole frame
    flip: float = 0.5  # probability of a horizontal flip
    jitter: float = 1.0  # strength of the colour jitter; 0: none, 1: the paper's
    val_fraction: float = 0.1  # share of the training groups held out to watch the loss; 0: none
    val_every: int = 1  # epochs between validations
    log_every: int = 10  # steps between rows in metrics.csv
    checkpoint_every: int = 500  # steps between checkpoints, besides one after each validation
    keep_checkpoints: bool = False  # keep every checkpoint, not only the last and the best (to look back at the run's stages)
    seed: int = 0  # of weights, order, crops, colours and dropout
    num_workers: int = 2  # processes that decode
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names
    precision: Literal["auto", "no", "bf16"] = "auto"  # auto: bf16 on GPUs that have it
    resume: bool = False  # go on from the last checkpoint in out

    def __post_init__(self):
        check_ranges(self)


PAPER = PretrainConfig()
PRETRAIN_PRESETS = {
    "demo": replace(
        PAPER,
        encoder="tiny",
        img_size=48,
        num_blocks=6,
        frame_stride=1,
        pred_steps=2,
        mem_size=128,
        address_gain=8.0,
        epochs=4,
        lr=4e-3,
        warmup_steps=20,
        cosine=True,
        min_area=1.0,
        flip=0.0,
        jitter=0.0,
    ),
    "paper-ucf101": replace(PAPER, dataset="ucf101", milestones=(300, 400)),
    "paper-kinetics400": replace(
        PAPER,
        dataset="kinetics400",
        encoder="resnet34",
        img_size=224,
        epochs=200,
        milestones=(120, 160),
    ),
}


@dataclass(frozen=True)
class FeaturesConfig:
    "What every measurement on frozen features needs: a network, a dataset, and where to write."

    checkpoint: str = (
        ""  # a run, a checkpoint in it, a from_pretrained folder, a released .pth.tar, or random
    )
    dataset: str = (
        "ucf101"  # ucf101, hmdb51 or kinetics400; features: also oops, oops-filtered, folder
    )
    root: str = ""  # the dataset's folder
    out: str = ""  # the folder for the results
    split: int = 1  # which of the dataset's splits
    readout: Literal["mean", "std"] = "mean"  # of a clip: over its blocks
    clips_per_video: int = 1  # uniform clips, averaged
    frame_stride: int | None = None  # every n-th frame; None: as the checkpoint's run, else 3
    time_stride: float | None = (
        None  # seconds from frame to frame instead; None: as the checkpoint's run
    )
    encoder: str = "resnet18"  # of a random checkpoint
    img_size: int | None = None  # height and width of the frames; None: the checkpoint's, or 128
    num_blocks: int | None = None  # blocks in a clip; None: the checkpoint's, or 8
    seed: int = 0  # of the random weights and of the probe
    batch_size: int = 16  # clips at a time
    num_workers: int = 2  # processes that decode
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True)
class RetrieveConfig(FeaturesConfig):
    "Nearest neighbours of test videos among training videos (R@k), its baselines beside it."

    readout: Literal["mean", "std", "context"] = (
        "mean"  # of a clip: over its blocks, or the aggregators' last state
    )
    centre: bool = True  # take the training videos' mean off before the cosine
    k: tuple[int, ...] = (1, 5, 10, 20, 50)  # how many neighbours are looked at


@dataclass(frozen=True)
class ClassifyConfig(FeaturesConfig):
    "Action recognition: a probe on frozen features, a linear layer, or the whole network; tested on the dataset's test videos."

    mode: Literal["probe", "linear", "finetune", "scratch", "test"] = (
        "probe"  # probe: fitted in seconds; linear: last layers trained; finetune, scratch: all; test: none
    )
    all_splits: bool = (
        False  # the dataset's three splits, each in a folder of its own, and their mean
    )
    label_fraction: float = (
        1.0  # share of the training videos whose labels are used, of each class at least one
    )
    draw: int = 0  # which random choice of them
    epochs: int | None = None  # passes over the labelled videos; None: the paper's
    max_steps: int | None = None  # stop after so many optimiser steps, if that is sooner
    lr: float = 1e-3  # Adam's learning rate
    backbone_lr: float = 1.0  # times lr: for all but the last layers
    weight_decay: float = 1e-3  # on every parameter that is trained
    dropout: float | None = None  # before the linear layer; None: the paper's
    milestones: tuple[int, ...] | None = (
        None  # epochs at which the learning rate falls to a tenth; None: the paper's
    )
    warmup_steps: int = 0  # steps of linear rise to lr
    cosine: bool = False  # let the learning rate fall along half a cosine to zero
    min_area: float = 0.5  # smallest crop, share of the frame; 1: the whole frame
    flip: float = 0.5  # probability of a horizontal flip
    jitter: float = 1.0  # strength of the colour jitter; 0: none, 1: the paper's
    val_fraction: float = 0.1  # share of the labelled groups held out to choose the checkpoint; 0: none, the last is taken
    val_every: int = 1  # epochs between validations
    crops: Literal[1, 5, 10] = 10  # of a test window: its centre, corners as well, mirrored as well
    log_every: int = 10  # steps between rows in metrics.csv
    checkpoint_every: int = 500  # steps between checkpoints, besides one after each validation
    precision: Literal["auto", "no", "bf16"] = "auto"  # auto: bf16 on GPUs that have it
    resume: bool = False  # go on from the last checkpoint in out


PROBE = ClassifyConfig()
DEMO = replace(
    PROBE,
    mode="linear",
    encoder="tiny",
    img_size=48,
    num_blocks=6,
    frame_stride=1,
    epochs=4,
    milestones=(3,),
    lr=4e-3,
    warmup_steps=20,
    weight_decay=1e-5,
    dropout=0.0,
    min_area=1.0,
    flip=0.0,
    jitter=0.0,
    crops=1,
)
CLASSIFY_PRESETS = {
    "default": PROBE,
    "demo-linear": DEMO,
    "demo-finetune": replace(DEMO, mode="finetune"),
    "demo-scratch": replace(DEMO, mode="scratch"),
    "paper-linear": replace(PROBE, mode="linear"),
    "paper-finetune": replace(PROBE, mode="finetune"),
    "paper-scratch": replace(PROBE, mode="scratch"),
}


@dataclass(frozen=True)
class AtlasConfig(FeaturesConfig):
    "What the memory of a network holds, by its training videos: pictures into out/figures, figures into out/metrics.json."

    slots: tuple[int, ...] = ()  # numbers of those to look into; none: the five that are used most
    stages: int = (
        4  # checkpoints of the run to compare (Figure S4), the untrained network among them
    )
    classes: int = 10  # classes in that figure, drawn at random if there are more
    example: int = 0  # number of the training video whose futures and surprises are drawn


@dataclass(frozen=True)
class OopsConfig:
    "Unintentional action: intentional, transition or unintentional, at every moment of a video; the baselines beside it."

    checkpoint: str = (
        ""  # a run, a checkpoint in it, a from_pretrained folder, a released .pth.tar, or random
    )
    dataset: Literal["oops", "oops-filtered"] = (
        "oops"  # all labelled videos, or those that passed the dataset's quality control
    )
    root: str = ""  # the dataset's folder
    out: str = ""  # the folder for the results
    reading: Literal["memdpc", "oops"] = (
        "memdpc"  # of three annotators' times: MemDPC's, or that of the dataset's own code
    )
    mode: Literal["linear", "finetune"] = (
        "linear"  # what is trained: the head alone, or the network as well
    )
    transition_share: float = 1 / 3  # of what training draws; transitions are oversampled to it
    encoder: str = "resnet18"  # of a random checkpoint
    img_size: int | None = None  # height and width of the frames; None: the checkpoint's, or 128
    num_blocks: int | None = None  # seconds in a window; None: the checkpoint's, or 8
    lr: float = 1e-3  # finetuning: Adam's learning rate, dropped once to a tenth
    weight_decay: float = 0.0  # finetuning: on every parameter
    batch_size: int = 16  # finetuning: windows per process
    epochs: int = 20  # finetuning: passes over as many windows as there are videos
    max_steps: int | None = (
        None  # finetuning: stop after so many optimiser steps, if that is sooner
    )
    val_fraction: float = 0.2  # share of the training videos held out to watch the loss
    seed: int = 0  # of random weights, draws and the held-out videos
    num_workers: int = 2  # processes that decode
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names
    resume: bool = False  # finetuning: go on from the last checkpoint in out

    def __post_init__(self):
        check_ranges(self)
        if not self.val_fraction:
            raise ConfigError("val_fraction must be above 0: held-out videos say when to stop")


@dataclass(frozen=True)
class ShapesConfig:
    "Write the embedded dataset: small videos of moving shapes."

    out: str = ""  # the dataset's folder
    videos_per_class: int = 160
    seed: int = 0
    num_workers: int = 2  # processes that render

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True)
class ScanConfig:
    "Open every file of a dataset, and say what is in it."

    dataset: str = "ucf101"  # ucf101, hmdb51, kinetics400, oops, oops-filtered or folder
    root: str = ""  # the dataset's folder
    out: str = ""  # folder for the table scan.csv; '': beside the index, in the cache
    num_blocks: int = 8  # blocks in a clip: a video is short if a clip does not fit into it
    block_len: int = 5  # frames in a block
    frame_stride: int = 3  # every n-th frame is used
    time_stride: float | None = None  # seconds from frame to frame instead
    time_limit: float = 60.0  # seconds that opening a file may take, and ten more for each megabyte
    num_workers: int = 2  # guarded processes that open files; 0: this one, unguarded

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True)
class PrepareConfig:
    "Make a smaller copy of a dataset: same names, same frames, quicker to read."

    dataset: str = "ucf101"  # ucf101, hmdb51, kinetics400, oops, oops-filtered or folder
    root: str = ""  # the dataset's folder
    out: str = ""  # the copy's folder
    short_side: int = 160  # of the pictures, pixels; about 1.25 times the network's img_size
    crf: int = 18  # H.264's quality: 0 is lossless, 51 the worst
    time_limit: float = 60.0  # seconds that copying a file may take, and ten more for each megabyte
    num_workers: int = 2  # processes that encode

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True)
class BenchmarkConfig:
    "Time the way of a clip from the file to the network, against other ways, and a training step."

    out: str = ""  # the folder for the results
    video: str = ""  # a video file; '': one is made, of UCF101's size, codec and rate
    encoder: str = "resnet18"  # of a random checkpoint
    img_size: int = 128  # height and width of the frames, pixels
    num_blocks: int = 8  # blocks in a clip
    block_len: int = 5  # frames in a block
    frame_stride: int = 3  # every n-th frame is used
    clips: int = 40  # clips that each way reads
    batch_size: int = 16  # clips in a training step
    num_workers: int = 2  # the most processes to try
    seed: int = 0  # of clips and crops
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names

    def __post_init__(self):
        check_ranges(self)


def parse(default, args, prog="memdpc"):
    """`default`, a config, with the fields changed that `args` (`['--epochs', '3', ...]`) name; anything wrong is a `ConfigError` of one line.

    tyro reads the fields' types and comments; a field of type bool takes True, False, or nothing, which is True.
    """
    import tyro  # here: a config made in Python needs no parser

    flags, clean = (
        {f"--{f.name}" for f in fields(default) if isinstance(getattr(default, f.name), bool)},
        [],
    )
    for before, word, following in zip(["", *args], args, [*args[1:], "--"]):
        clean.append(word.capitalize() if before in flags and word in ("true", "false") else word)
        if word in flags and following.startswith("--"):
            clean.append("True")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return tyro.cli(
                type(default),
                args=clean,
                default=default,
                prog=prog,
                config=(tyro.conf.FlagConversionOff,),
                use_underscores=True,
            )
    except SystemExit as stop:
        if stop.code:
            raise ConfigError(one_line(said.getvalue())) from None
        print(said.getvalue(), end="")  # --help
        raise


def one_line(box):
    "The message inside one of tyro's boxes, without its frame, title and footer."
    parts = re.split(r"^[^\w\n]*[-─]{5,}[^\w\n]*$", box, flags=re.MULTILINE)
    lines = [
        re.sub(r"^[\s│|]+|[\s│|]+$", "", line)
        for line in (parts[1] if len(parts) > 1 else box).splitlines()
    ]
    return " ".join(filter(None, lines)) + " (see --help)"


def words(config, name, value):
    "A notebook's value as words of a command line; `'[3, 4]'` and `'3, 4'` are lists where the field is one."
    kind = next(str(field.type) for field in fields(config) if field.name == name)
    if isinstance(value, str) and kind.startswith("tuple"):
        value = value.strip("[]() ").replace(",", " ").split()
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def config_from(presets, parameters, prog="notebook"):
    """The config of a run notebook: its preset, changed by every parameter that is not None.

    Values may be strings (papermill's `-p x false` gives one): they go the same way as the command line's. A name that is no field is a `ConfigError`.
    """
    preset = parameters.get("preset") or next(iter(presets))
    if preset not in presets:
        raise ConfigError(f"no preset {preset!r}: choose one of {', '.join(presets)}")
    given = {
        name: value for name, value in parameters.items() if name != "preset" and value is not None
    }
    known = {field.name for field in fields(presets[preset])}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{name!r} is no parameter of this job: choose among {', '.join(sorted(known))}"
            )
    return parse(
        presets[preset],
        [
            word
            for name, value in given.items()
            for word in (f"--{name}", *words(presets[preset], name, value))
        ],
        prog,
    )


def notebook_parameters(variables):
    """The parameters of a run notebook: the plain values among its `globals()`, called right after the parameters cell.

    What papermill injected under a wrong name is among them, so that `config_from` can refuse it.
    """
    plain = (type(None), bool, int, float, str, list, tuple)
    return {
        name: value
        for name, value in variables.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in ("In", "Out")
    }


def save_config(config, path):
    "Write a config as JSON."
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def config_differences(
    config, path, ignored=("out", "resume", "device", "num_workers", "keep_checkpoints")
):
    "`['field: saved -> now', ...]` for the fields in which `config` differs from the one saved at `path`."
    saved, now = (
        read_json(path, ConfigError(f"{path}: damaged; choose another out")),
        json.loads(json.dumps(asdict(config))),
    )
    return [
        f"{name}: {saved.get(name)} -> {now.get(name)}"
        for name in now.keys() | saved.keys()
        if name not in ignored and saved.get(name) != now.get(name)
    ]
