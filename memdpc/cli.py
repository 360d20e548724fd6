"""memdpc COMMAND: the jobs, from a shell.

A command is a name, a function and a config. Its module is imported when it runs: torch alone
takes seconds to import, and `memdpc --help` should not wait for it.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from memdpc.base import config as configs
from memdpc.base.config import JobConfig
from memdpc.base.errors import ConfigError, MemdpcError, Stopped, printable
from memdpc.base.files import output_folder
from memdpc.base.plugins import load_plugins

logger = logging.getLogger("memdpc")


class Command(NamedTuple):
    """What `memdpc NAME` does, and where the function is that does it."""

    about: str
    module: str  # within memdpc
    function: str  # takes a config
    presets: Mapping[str, JobConfig]
    default: str = "default"  # the preset that the fields start from
    first_word: str = ""  # the field that a first word without a flag fills


COMMANDS = {
    "shapes": Command(
        "write the embedded dataset as video files",
        "cli",
        "write_datasets",
        {"default": configs.ShapesConfig()},
    ),
    "scan": Command(
        "open every file of a dataset, and say what is in it",
        "data.scan",
        "scan",
        {"default": configs.ScanConfig()},
    ),
    "prepare": Command(
        "make a smaller copy of a dataset",
        "data.prepare",
        "prepare",
        {"default": configs.PrepareConfig()},
    ),
    "pretrain": Command(
        "pretrain MemDPC on a folder of videos",
        "training.pretrain",
        "pretrain",
        configs.PRETRAIN_PRESETS,
        default="paper-ucf101",
    ),
    "classify": Command(
        "action recognition: probe, linear layer, finetuning, from scratch",
        "evaluation.classify",
        "classify",
        configs.CLASSIFY_PRESETS,
    ),
    "features": Command(
        "features of every video of a dataset, as plain arrays",
        "evaluation.features",
        "write_features",
        {"default": configs.FeaturesConfig()},
    ),
    "retrieve": Command(
        "nearest neighbours: R@k, with its baselines",
        "evaluation.retrieve",
        "retrieve",
        {"default": configs.RetrieveConfig()},
    ),
    "atlas": Command(
        "what the slots of a memory hold, and which futures it weighs",
        "evaluation.atlas",
        "atlas",
        {"default": configs.AtlasConfig()},
    ),
    "oops": Command(
        "intentional, transition or unintentional action, with the baselines",
        "evaluation.oops",
        "oops",
        {"default": configs.OopsConfig()},
    ),
    "show": Command(
        "say what a run, or a folder of results, holds",
        "training.show",
        "show",
        {"default": configs.ShowConfig()},
        first_word="folder",
    ),
    "benchmark": Command(
        "time the way of a clip from file to network",
        "training.benchmark",
        "benchmark",
        {"default": configs.BenchmarkConfig()},
    ),
}


def write_datasets(config: configs.ShapesConfig) -> None:
    """`memdpc shapes`: write the embedded datasets, actions and mishaps, to `config.out`."""
    from memdpc.data.mishaps import write_mishaps
    from memdpc.data.shapes import write_shapes

    out = output_folder(config.out, "shapes.json")
    write_shapes(out, config.videos_per_class, config.seed, config.num_workers)
    mishaps = max(4, config.videos_per_class // 2)
    write_mishaps(out / "oops_dataset", mishaps, config.seed, config.num_workers)


def usage() -> str:
    """The text of `memdpc --help`."""
    commands = [f"  {name:10} {command.about}" for name, command in COMMANDS.items()]
    pretrain = COMMANDS["pretrain"]
    return "\n".join(
        [
            "usage: memdpc COMMAND [--FIELD VALUE ...]",
            "",
            *commands,
            "",
            "`memdpc COMMAND --help` lists the fields of a command.",
            f"`memdpc pretrain --preset NAME` starts from {', '.join(pretrain.presets)};",
            f"without it, from {pretrain.default}. `classify` has presets as well.",
        ]
    )


def parse_command(words: Sequence[str]) -> tuple[Callable[[Any], Any], JobConfig]:
    """The function and the config of a command line such as `["scan", "--root", "UCF101"]`.

    Imports the modules that `--plugin` names. Anything wrong is a `ConfigError`.
    """
    name, *args = words
    if name not in COMMANDS:
        raise ConfigError(f"no command {name!r}: choose one of {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if command.first_word and args and not args[0].startswith("-"):
        args.insert(0, f"--{command.first_word}")
    preset = command.default
    if len(command.presets) > 1:
        preset, args = _take_preset(args, preset)
        if {"-h", "--help"} & set(args):
            print(f"--preset NAME  start from {', '.join(command.presets)}; here {preset}\n")
    default = configs.find_preset(command.presets, preset)
    config = configs.parse(default, args, f"memdpc {name}")
    load_plugins(getattr(config, "plugin", ()))
    return getattr(import_module(f"memdpc.{command.module}"), command.function), config


def _take_preset(args: Sequence[str], default: str) -> tuple[str, list[str]]:
    """The name behind `--preset`, and the other words: it decides what the fields start from."""
    preset = default
    others = []
    words = iter(args)
    for word in words:
        flag, _, value = word.partition("=")
        if flag == "--preset":
            preset = value or next(words, "")
        else:
            others.append(word)
    return preset, others


def print_results(results: Any, above: str = "") -> None:
    """A job's results, a line each; what is a list stays in metrics.json."""
    if not isinstance(results, Mapping):
        print(results)
        return
    for name, value in results.items():
        label = above + name
        if isinstance(value, Mapping):
            print_results(value, f"{label} ")
        elif isinstance(value, float):
            print(f"{label:44} {value:.3f}")
        elif not isinstance(value, list):
            print(f"{label:44} {value}")


def _run(words: Sequence[str]) -> None:
    """Run a command line to its end, and print what comes out of it."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), flush=True)
        return
    function, config = parse_command(words)
    results = function(config)
    is_main_process = os.environ.get("RANK", "0") == "0"
    if results is not None and is_main_process:
        print_results(results)
    sys.stdout.flush()


def _explain(error: Exception) -> str:
    """One line for an error that is the user's to fix."""
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return printable(" ".join(text.split()))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `memdpc` and `python -m memdpc`.

    Exit status: 0 when done; 2, and one line, for what the user can fix; 128 and the signal's
    number for a run that a signal stopped. A traceback is a bug.
    """
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:
        # `memdpc ... | head`: nobody reads on, and Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MemdpcError, OSError) as error:
        print(f"memdpc: {_explain(error)}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(f"memdpc: {stop}", file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        logger.warning("memdpc: stopped; what was found or written whole is kept")
        sys.exit(130)


__all__ = ["main"]
