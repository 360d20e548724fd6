"""Settings: one frozen dataclass per job.

The same class feeds the job's function, the command line, a run notebook's parameters and the
run's `config.json`. The comment at a field is its help on the command line. A field reads a text
as its type says, so that `--lr 0.01`, papermill's `-p lr 0.01` and `PretrainConfig(lr=0.01)` mean
the same; anything else is a `ConfigError` of one line.
"""

# A job may take more values in a field than the job that it extends:
# pyright: reportIncompatibleVariableOverride=false

import ast
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from memdpc.base.errors import ConfigError
from memdpc.base.files import expand_home, read_json

Job = TypeVar("Job", bound="JobConfig")


# ---- reading values


FilePath = Annotated[str, Path]  # of a file or a folder; stays a text, with its `~` expanded


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value of a field that make sense."""

    low: float
    high: float


class Setting(NamedTuple):
    """How a field is read: what one value of it is, whether it holds several, or may be None."""

    kind: Any  # str, bool, int, float, Path, or a tuple of choices
    several: bool
    optional: bool
    range: Range | None


@cache
def settings_of(config_class: type) -> dict[str, Setting]:
    """`{field: Setting}` of a config's class, from its type annotations."""
    hints = get_type_hints(config_class, include_extras=True)
    return {field.name: _setting(hints[field.name]) for field in fields(config_class)}


def _setting(annotation: Any) -> Setting:
    """The Setting that an annotation such as `Annotated[int | None, Range(1, 9)]` describes."""
    value_range = None
    if annotation == FilePath:
        return Setting(Path, several=False, optional=False, range=None)
    if get_origin(annotation) is Annotated:
        annotation, value_range = get_args(annotation)
    optional = get_origin(annotation) is UnionType
    if optional:
        (annotation,) = (kind for kind in get_args(annotation) if kind is not NoneType)
    several = get_origin(annotation) is tuple
    if several:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        annotation = get_args(annotation)
    return Setting(annotation, several, optional, value_range)


def _read_field(name: str, setting: Setting, value: Any) -> Any:
    """A field's value from what a shell, a notebook or Python gives; raises `ConfigError`.

    A shell gives a list of words, and none for a flag that stands alone; papermill gives a value,
    or text such as `"[1, 2]"`.
    """
    words = value if isinstance(value, (list, tuple)) else [value]
    if setting.optional and len(words) == 1 and words[0] in (None, "None", "none"):
        return None
    if not setting.several:
        return _read_one(name, setting, _only_word(name, setting, words))
    items = [item for word in words for item in _split(word)]
    return tuple(_read_one(name, setting, item) for item in items)


def _split(word: Any) -> Sequence[Any]:
    """The items of `"[1, 2]"` or `"1,2"`; any other value is an item itself."""
    if not isinstance(word, str):
        return [word]
    words = word.strip("[]() ").replace(",", " ").split()
    return [item.strip("'\"") for item in words]


def _only_word(name: str, setting: Setting, words: Sequence[Any]) -> Any:
    """The value of a field that takes one; a flag that stands alone is a yes."""
    if not words and setting.kind is bool:
        return True
    if not words:
        raise ConfigError(f"{name} needs a value")
    if len(words) > 1:
        raise ConfigError(f"{name} takes one value, got {' '.join(map(str, words))}")
    return words[0]


def _read_one(name: str, setting: Setting, value: Any) -> Any:
    """One value of a field, within its range; raises `ConfigError`."""
    read, wanted = _READERS.get(setting.kind, (None, ""))
    if read is None:
        read = {str(choice): choice for choice in setting.kind}.get
        wanted = "one of " + ", ".join(map(str, setting.kind))
        value = str(value)
    try:
        found = read(value)
    except (ValueError, OverflowError):  # a whole number may be too long for a float
        found = None
    if found is None:
        raise ConfigError(f"{name} must be {wanted}, got {value}")
    if setting.range is not None:
        low = setting.range.low
        high = setting.range.high
        if not low <= found <= high:
            raise ConfigError(f"{name} must lie in {low}..{high}, got {found}")
    return found


def _read_text(value: Any) -> str | None:
    """A name or a path; papermill makes numbers of names such as 2020."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return str(value) if isinstance(value, (str, Real)) else None


def _read_path(value: Any) -> str | None:
    """A path as a shell reads it: a `~` at its beginning is the home folder; '' stays as it is."""
    text = _read_text(value)
    if text is None or "\0" in text:
        return None
    return expand_home(text)


def _read_flag(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _read_integer(value: Any) -> int | None:
    whole = isinstance(value, (str, Integral)) and not isinstance(value, bool)
    return int(value) if whole else None


def _read_number(value: Any) -> float | None:
    number = isinstance(value, (str, Real)) and not isinstance(value, bool)
    return float(value) if number else None


_READERS = {
    str: (_read_text, "a text"),
    Path: (_read_path, "a path"),
    bool: (_read_flag, "True or False"),
    int: (_read_integer, "a whole number"),
    float: (_read_number, "a number"),
}


@dataclass(frozen=True)
class JobConfig:
    """What the configs of all jobs do: each field is read as its type and checked at once."""

    def __post_init__(self) -> None:
        for name, setting in settings_of(type(self)).items():
            value = _read_field(name, setting, getattr(self, name))
            object.__setattr__(self, name, value)  # the class is frozen for everyone else


# ---- ranges that several jobs share

Split = Annotated[int, Range(1, 1000)]
ImageSize = Annotated[int, Range(16, 4096)]
NumBlocks = Annotated[int, Range(2, 1000)]
BlockLength = Annotated[int, Range(1, 1000)]
FrameStride = Annotated[int, Range(1, 1000)]
TimeStride = Annotated[float | None, Range(0.001, 60)]
BatchSize = Annotated[int, Range(1, 100_000)]
Epochs = Annotated[int, Range(1, 1_000_000)]
Milestones = Annotated[tuple[int, ...], Range(1, 1_000_000)]
Steps = Annotated[int, Range(1, 10**9)]
MaxSteps = Annotated[int | None, Range(1, 10**9)]
WarmupSteps = Annotated[int, Range(0, 10**9)]
LearningRate = Annotated[float, Range(0, 100)]
WeightDecay = Annotated[float, Range(0, 100)]
MinArea = Annotated[float, Range(0.01, 1)]
Probability = Annotated[float, Range(0, 1)]
Jitter = Annotated[float, Range(0, 2)]
ValFraction = Annotated[float, Range(0, 0.9)]
Seed = Annotated[int, Range(0, 2**31 - 1)]
NumWorkers = Annotated[int, Range(0, 1024)]
TimeLimit = Annotated[float, Range(1, 86_400)]
Precision = Literal["auto", "no", "bf16"]


# ---- the jobs


@dataclass(frozen=True)
class PretrainConfig(JobConfig):
    """Pretrain MemDPC on a folder of videos."""

    # ucf101, hmdb51, kinetics400, oops, oops-filtered, csv, folder, or one from a plugin
    dataset: str = "ucf101"
    root: FilePath = ""  # the dataset's folder
    out: FilePath = ""  # the run's folder
    # the weights to begin with: a run, a checkpoint in it, a from_pretrained folder, a released
    # .pth.tar; '': fresh ones
    init: FilePath = ""
    split: Split = 1  # which of the dataset's splits: its training part is used
    encoder: str = "resnet18"  # tiny, resnet18, resnet34, resnet50, or one from a plugin
    img_size: ImageSize = 128  # height and width of the frames, pixels
    num_blocks: NumBlocks = 8  # N, blocks in a clip
    block_len: BlockLength = 5  # T, frames in a block
    frame_stride: FrameStride = 3  # every n-th frame is used
    time_stride: TimeStride = None  # seconds between frames instead, whatever the frame rate
    pred_steps: Annotated[int, Range(1, 999)] = 3  # P, blocks to predict
    mem_size: Annotated[int, Range(0, 10_000_000)] = 1024  # K, slots; 0: no memory (DPC)
    predictor: str = "memory"  # from context to prediction: memory, direct, or one from a plugin
    loss: str = "contrastive"  # contrastive, or one from a plugin
    bidirectional: bool = True  # predict the past from the future as well
    dropout: Annotated[float, Range(0, 0.999)] = 0.1  # on the aggregators' states
    address_gain: Annotated[float, Range(1e-6, 1e6)] = 0.1  # gain of phi's last layer at the start
    batch_size: BatchSize = 16  # clips per process: the contrastive problem
    epochs: Epochs = 500  # passes over the training videos
    max_steps: MaxSteps = None  # stop after so many optimiser steps, if that is sooner
    lr: LearningRate = 1e-3  # Adam's learning rate
    weight_decay: WeightDecay = 1e-5  # on every parameter
    milestones: Milestones = ()  # epochs at which the learning rate falls to a tenth
    warmup_steps: WarmupSteps = 0  # steps of linear rise to lr
    cosine: bool = False  # let the learning rate fall along half a cosine to zero
    min_area: MinArea = 0.5  # smallest crop, share of the frame; 1: the whole frame
    flip: Probability = 0.5  # probability of a horizontal flip
    jitter: Jitter = 1.0  # strength of the colour jitter; 0: none, 1: the paper's
    val_fraction: ValFraction = 0.1  # share of the training groups held out to watch the loss
    val_every: Epochs = 1  # epochs between validations
    log_every: Steps = 10  # steps between rows in metrics.csv
    checkpoint_every: Steps = 500  # steps between checkpoints; each validation saves one as well
    keep_checkpoints: bool = False  # keep every checkpoint, not only the last and the best
    seed: Seed = 0  # of weights, order, crops, colours and dropout
    num_workers: NumWorkers = 2  # processes that decode
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names
    precision: Precision = "auto"  # auto: bf16 on GPUs that have it
    resume: bool = False  # go on from the last checkpoint in out
    accept_changed_data: bool = False  # resume though the run's videos are no longer the same

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pred_steps >= self.num_blocks:
            given = f"{self.pred_steps} of {self.num_blocks} blocks"
            raise ConfigError(f"pred_steps must be less than num_blocks, got {given}")


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
        # A sharp start, no dropout and many small steps: every seed leaves the plateau in time.
        dropout=0.0,
        address_gain=16.0,
        batch_size=8,
        epochs=6,
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
class FeaturesConfig(JobConfig):
    """What every measurement on frozen features needs: a network, a dataset, where to write."""

    # a run, a checkpoint in it, a from_pretrained folder, a released .pth.tar, or random
    checkpoint: FilePath = ""
    # ucf101, hmdb51, kinetics400, csv, folder, or one from a plugin; features: also oops
    dataset: str = "ucf101"
    root: FilePath = ""  # the dataset's folder
    out: FilePath = ""  # the folder for the results
    split: Split = 1  # which of the dataset's splits
    # of a clip: over its blocks, or the aggregators' last state
    readout: Literal["mean", "std", "context"] = "mean"
    clips_per_video: Annotated[int, Range(1, 1000)] = 1  # uniform clips, averaged
    # every n-th frame; None: as the checkpoint's run, else 3
    frame_stride: Annotated[int | None, Range(1, 1000)] = None
    time_stride: TimeStride = None  # seconds between frames; None: as the checkpoint's run
    encoder: str = "resnet18"  # of a random checkpoint
    # height and width of the frames; None: the checkpoint's, or 128
    img_size: Annotated[int | None, Range(16, 4096)] = None
    # blocks in a clip; None: the checkpoint's, or 8
    num_blocks: Annotated[int | None, Range(2, 1000)] = None
    seed: Seed = 0  # of the random weights and of the probe
    batch_size: BatchSize = 16  # clips at a time
    num_workers: NumWorkers = 2  # processes that decode
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names


@dataclass(frozen=True)
class RetrieveConfig(FeaturesConfig):
    """Nearest neighbours of test videos among training videos (R@k), its baselines beside it."""

    centre: bool = True  # take the training videos' mean off before the cosine
    # how many neighbours are looked at
    k: Annotated[tuple[int, ...], Range(1, 10**6)] = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class ClassifyConfig(FeaturesConfig):
    """Action recognition: a probe on frozen features, a linear layer, or the whole network.

    Tested on the dataset's test videos.
    """

    # probe: fitted in seconds; linear: last layers trained; finetune, scratch: all; test: none
    mode: Literal["probe", "linear", "finetune", "scratch", "test"] = "probe"
    all_splits: bool = False  # every split of the dataset, each in its own folder, and their mean
    # share of the training videos whose labels are used, of each class at least one
    label_fraction: Annotated[float, Range(1e-6, 1)] = 1.0
    draw: Annotated[int, Range(0, 10**6)] = 0  # which random choice of them
    # passes over the labelled videos; None: the paper's
    epochs: Annotated[int | None, Range(1, 1_000_000)] = None
    max_steps: MaxSteps = None  # stop after so many optimiser steps, if that is sooner
    lr: LearningRate = 1e-3  # Adam's learning rate
    backbone_lr: Annotated[float, Range(0, 1)] = 1.0  # times lr: for all but the last layers
    weight_decay: WeightDecay = 1e-3  # on every parameter that is trained
    # before the linear layer; None: the paper's
    dropout: Annotated[float | None, Range(0, 0.999)] = None
    # epochs at which the learning rate falls to a tenth; None: the paper's
    milestones: Annotated[tuple[int, ...] | None, Range(1, 1_000_000)] = None
    warmup_steps: WarmupSteps = 0  # steps of linear rise to lr
    cosine: bool = False  # let the learning rate fall along half a cosine to zero
    min_area: MinArea = 0.5  # smallest crop, share of the frame; 1: the whole frame
    flip: Probability = 0.5  # probability of a horizontal flip
    jitter: Jitter = 1.0  # strength of the colour jitter; 0: none, 1: the paper's
    # share of the labelled groups held out to choose the checkpoint; 0: none, the last is taken
    val_fraction: ValFraction = 0.1
    val_every: Epochs = 1  # epochs between validations
    crops: Literal[1, 5, 10] = 10  # of a test window: its centre, corners as well, mirrored as well
    log_every: Steps = 10  # steps between rows in metrics.csv
    checkpoint_every: Steps = 500  # steps between checkpoints; each validation saves one as well
    precision: Precision = "auto"  # auto: bf16 on GPUs that have it
    resume: bool = False  # go on from the last checkpoint in out
    accept_changed_data: bool = False  # resume though the run's videos are no longer the same


PROBE = ClassifyConfig()
DEMO_LINEAR = replace(
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
    "demo-linear": DEMO_LINEAR,
    "demo-finetune": replace(DEMO_LINEAR, mode="finetune"),
    "demo-scratch": replace(DEMO_LINEAR, mode="scratch"),
    "paper-linear": replace(PROBE, mode="linear"),
    "paper-finetune": replace(PROBE, mode="finetune"),
    "paper-scratch": replace(PROBE, mode="scratch"),
}


@dataclass(frozen=True)
class AtlasConfig(FeaturesConfig):
    """What the memory of a network holds, by its training videos.

    Pictures go into out/figures, numbers into out/metrics.json.
    """

    # numbers of the slots to look into; none: the five that are used most
    slots: Annotated[tuple[int, ...], Range(0, 10_000_000)] = ()
    # checkpoints of the run to compare (Figure S4), the untrained network among them
    stages: Annotated[int, Range(1, 100)] = 4
    classes: Annotated[int, Range(1, 10)] = 10  # classes in that figure, drawn if there are more
    # number of the training video whose futures and surprises are drawn
    example: Annotated[int, Range(0, 10**9)] = 0


@dataclass(frozen=True)
class OopsConfig(JobConfig):
    """Unintentional action: intentional, transition or unintentional, at every moment of a video.

    The baselines stand beside it.
    """

    # a run, a checkpoint in it, a from_pretrained folder, a released .pth.tar, or random
    checkpoint: FilePath = ""
    # all labelled videos, or those that passed the dataset's quality control
    dataset: Literal["oops", "oops-filtered"] = "oops"
    root: FilePath = ""  # the dataset's folder
    out: FilePath = ""  # the folder for the results
    # of three annotators' times: MemDPC's, or that of the dataset's own code
    reading: Literal["memdpc", "oops"] = "memdpc"
    mode: Literal["linear", "finetune"] = "linear"  # train the head alone, or the network as well
    # of what training draws; transitions are oversampled to it
    transition_share: Annotated[float, Range(0.01, 0.99)] = 1 / 3
    encoder: str = "resnet18"  # of a random checkpoint
    # height and width of the frames; None: the checkpoint's, or 128
    img_size: Annotated[int | None, Range(16, 4096)] = None
    # seconds in a window; None: the checkpoint's, or 8
    num_blocks: Annotated[int | None, Range(2, 1000)] = None
    lr: LearningRate = 1e-3  # finetuning: Adam's learning rate, dropped once to a tenth
    weight_decay: WeightDecay = 0.0  # finetuning: on every parameter
    batch_size: BatchSize = 16  # finetuning: windows per process
    epochs: Epochs = 20  # finetuning: passes over as many windows as there are videos
    # finetuning: stop after so many optimiser steps, if that is sooner
    max_steps: MaxSteps = None
    val_fraction: ValFraction = 0.2  # share of the training videos held out to watch the loss
    seed: Seed = 0  # of random weights, draws and the held-out videos
    num_workers: NumWorkers = 2  # processes that decode
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names
    resume: bool = False  # finetuning: go on from the last checkpoint in out
    accept_changed_data: bool = False  # resume though the run's videos are no longer the same

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.val_fraction:
            raise ConfigError("val_fraction must be above 0: held-out videos say when to stop")


@dataclass(frozen=True)
class ShapesConfig(JobConfig):
    """Write the embedded dataset: small videos of moving shapes."""

    out: FilePath = ""  # the dataset's folder
    videos_per_class: Annotated[int, Range(1, 10**6)] = 160  # of each of the eight actions
    seed: Seed = 0  # of shapes, places and speeds
    num_workers: NumWorkers = 2  # processes that render


@dataclass(frozen=True)
class ScanConfig(JobConfig):
    """Open every file of a dataset, and say what is in it."""

    # ucf101, hmdb51, kinetics400, oops, oops-filtered, csv, folder, or one from a plugin
    dataset: str = "ucf101"
    root: FilePath = ""  # the dataset's folder
    out: FilePath = ""  # folder for the table scan.csv; '': beside the index, in the cache
    num_blocks: NumBlocks = 8  # blocks in a clip: a video is short if a clip does not fit into it
    block_len: BlockLength = 5  # frames in a block
    frame_stride: FrameStride = 3  # every n-th frame is used
    time_stride: TimeStride = None  # seconds between frames instead
    time_limit: TimeLimit = 60.0  # seconds to open a file, and ten more for each megabyte
    num_workers: NumWorkers = 2  # guarded processes that open files; 0: this one, unguarded
    again: bool = False  # open every file again, whatever is known of it
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names


@dataclass(frozen=True)
class PrepareConfig(JobConfig):
    """Make a smaller copy of a dataset: same names, same frames, quicker to read."""

    # ucf101, hmdb51, kinetics400, oops, oops-filtered, csv, folder, or one from a plugin
    dataset: str = "ucf101"
    root: FilePath = ""  # the dataset's folder
    out: FilePath = ""  # the copy's folder
    # of the pictures, pixels; about 1.25 times the network's img_size
    short_side: Annotated[int, Range(16, 4096)] = 160
    crf: Annotated[int, Range(0, 51)] = 18  # H.264's quality: 0 is lossless, 51 the worst
    time_limit: TimeLimit = 60.0  # seconds to copy a file, and ten more for each megabyte
    num_workers: NumWorkers = 2  # processes that encode
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names


@dataclass(frozen=True)
class ShowConfig(JobConfig):
    """Say what a run, or a folder of results, holds."""

    folder: FilePath = ""  # a run, or the out of any other job


@dataclass(frozen=True)
class BenchmarkConfig(JobConfig):
    """Time a clip's way from the file to the network, and a training step."""

    out: FilePath = ""  # the folder for the results
    video: FilePath = ""  # a video file; '': one is made, of UCF101's size, codec and rate
    encoder: str = "resnet18"  # of a random checkpoint
    img_size: ImageSize = 128  # height and width of the frames, pixels
    num_blocks: NumBlocks = 8  # blocks in a clip
    block_len: BlockLength = 5  # frames in a block
    frame_stride: FrameStride = 3  # every n-th frame is used
    clips: Annotated[int, Range(1, 100_000)] = 40  # clips to read
    batch_size: BatchSize = 16  # clips in a training step
    num_workers: NumWorkers = 2  # the most processes to try
    seed: Seed = 0  # of clips and crops
    device: str = "auto"  # auto, cpu, cuda, mps
    plugin: tuple[str, ...] = ()  # your own modules, imported first: they register names


# ---- from a command line, and from a notebook


def parse(default: Job, args: Sequence[str], prog: str = "memdpc") -> Job:
    """`default` with the fields changed that `args` (`["--epochs", "3", ...]`) name.

    A flag may stand alone: `--resume` is `--resume True`. `--help` prints the fields and exits.
    Raises `ConfigError` for an unknown field and for a value that its field cannot take.
    """
    import tyro  # here, because a config made in Python needs no parser

    # tyro hands over each field's words as they are: reading them is the config's own work, so
    # that a wrong value is a ConfigError rather than a message in a box on the terminal.
    words_as_they_are = tyro.constructors.ConstructorRegistry()
    words_as_they_are.primitive_rule(_words_rule)
    config, unknown = tyro.cli(
        type(default),
        args=args,
        default=default,
        prog=prog,
        registry=words_as_they_are,
        config=(tyro.conf.FlagConversionOff,),
        use_underscores=True,
        return_unknown_args=True,
    )
    if unknown:
        raise ConfigError(_unknown_field(unknown[0], settings_of(type(default))))
    return config


def _words_rule(info: Any) -> Any:
    """tyro's rule for the types of fields: any number of words, handed on as a list."""
    import tyro

    placeholder = _placeholder(_setting(info.type))
    if placeholder is None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=placeholder,
        instance_from_str=list,
        is_instance=lambda value: True,
        str_from_instance=_shown_default,
    )


_PLACEHOLDERS = {str: "TEXT", Path: "PATH", bool: "{True,False}", int: "INT", float: "FLOAT"}


def _placeholder(setting: Setting) -> str | None:
    """What `--help` shows in place of a field's value; None for what is not a field's type."""
    if isinstance(setting.kind, tuple):
        shown = "{" + ",".join(map(str, setting.kind)) + "}"
    else:
        shown = _PLACEHOLDERS.get(setting.kind)
    return f"[{shown} ...]" if setting.several else shown


def _shown_default(value: Any) -> list[str]:
    """A default as `--help` shows it."""
    return [str(item) for item in value] if isinstance(value, tuple) else [str(value)]


def _unknown_field(name: str, known: Mapping[str, Setting]) -> str:
    """The message for a field that a job does not have."""
    plain = name.split("=")[0].lstrip("-").replace("-", "_")
    close = difflib.get_close_matches(plain, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose among {', '.join(sorted(known))}"
    return f"{name!r} is not a parameter of this job: {hint}"


def config_from(presets: Mapping[str, Job], parameters: Mapping[str, Any]) -> Job:
    """The config of a run notebook: its preset, changed by every parameter that is not None.

    Args:
        presets: `{name: config}`; the first counts where `parameters` names none.
        parameters: as `notebook_parameters` gives them; values may be text, as papermill's are.

    Raises `ConfigError` for a name that is not a field, and for a value that its field cannot take.
    """
    preset = parameters.get("preset") or next(iter(presets))
    default = find_preset(presets, preset)
    changes = {name: value for name, value in parameters.items() if value is not None}
    changes.pop("preset", None)
    known = settings_of(type(default))
    for name in changes:
        if name not in known:
            raise ConfigError(_unknown_field(name, known))
    return replace(default, **changes)


def find_preset(presets: Mapping[str, Job], name: str) -> Job:
    """The preset of this name; `ConfigError` where there is none."""
    if name not in presets:
        raise ConfigError(f"no preset {name!r}: choose one of {', '.join(presets)}")
    return presets[name]


def notebook_parameters(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run notebook, called with its `globals()` after the parameters cell.

    They are what two cells set: the notebook's own, whose first line is `# Parameters: ...`, and
    papermill's behind it, `# Parameters`. A wrong name is among them, so that `config_from` can
    refuse it; papermill itself only warns. No other variable is, whatever ran in the kernel before:
    IPython keeps the source of every cell that ran, in `In`. Without IPython nothing ran before,
    and all plain values count.
    """
    sources = _parameter_cells(variables.get("In", []))
    if sources:
        names = [name for source in sources for name in _assigned(source)]
        return {name: variables[name] for name in names if name in variables}
    plain = (NoneType, bool, int, float, str, list, tuple)
    return {
        name: value
        for name, value in variables.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in ("In", "Out")
    }


def _parameter_cells(history: Sequence[str]) -> list[str]:
    """The source of the notebook's parameters cell as it ran last, and of papermill's after it."""
    found = []
    for source in reversed(history):
        title, colon, _ = source.partition("\n")[0].partition(":")
        if title.strip() == "# Parameters":
            found.append(source)
            if colon:  # the notebook's own
                return found[::-1]
    return []


def _assigned(source: str) -> list[str]:
    """The names of the variables that a cell sets, in order."""
    return [
        node.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


# ---- a run's config.json


def save_config(config: Any, path: Path) -> None:
    """Write a config, a dataclass, as JSON."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


MAY_DIFFER = ("out", "resume", "accept_changed_data", "device", "num_workers", "keep_checkpoints")


def config_differences(config: Any, path: Path, ignored: Sequence[str] = MAY_DIFFER) -> list[str]:
    """`["field: saved -> now", ...]` where `config` differs from the one saved at `path`.

    A field that is younger than the saved config counts there as its default. Raises `ConfigError`
    for a file that is damaged.
    """
    defaults = {field.name: field.default for field in fields(config)}
    now = _as_json(asdict(config))
    saved = _as_json(defaults) | read_json(
        path, ConfigError(f"{path}: damaged; choose another out")
    )
    return [
        f"{name}: {str(saved.get(name)):.80} -> {now.get(name)}"
        for name in sorted(now.keys() | saved.keys())
        if name not in ignored and saved.get(name) != now.get(name)
    ]


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they come back from a JSON file: tuples as lists."""
    return json.loads(json.dumps(values, default=str))


__all__ = [
    "CLASSIFY_PRESETS",
    "PRETRAIN_PRESETS",
    "AtlasConfig",
    "BenchmarkConfig",
    "ClassifyConfig",
    "FeaturesConfig",
    "OopsConfig",
    "PrepareConfig",
    "PretrainConfig",
    "RetrieveConfig",
    "ScanConfig",
    "ShapesConfig",
    "ShowConfig",
    "config_from",
    "notebook_parameters",
]
