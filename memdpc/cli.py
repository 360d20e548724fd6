"""memdpc COMMAND: the jobs, from a shell.

A command is a name, a function and a config. Its module is imported when it runs: torch alone
takes seconds to import, and `memdpc --help` should not wait for it.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from memdpc.base import config as configs
from memdpc.base.config import JobConfig
from memdpc.base.errors import ConfigError, MachineError, MemdpcError, Stopped, printable
from memdpc.base.files import output_folder
from memdpc.base.limits import explain
from memdpc.base.plugins import load_plugins
from memdpc.base.tables import results_text

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


# What a measurement prints of all that its folder holds: a run's results may lie there as well.
OWN_RESULTS = {
    "retrieve": ("retrieval", "retrieval_protocol"),
    "atlas": ("atlas", "chance"),
    "oops": ("oops", "oops_videos"),
    "classify probe": ("probe", "probe_facts", "chance"),
}
# What other jobs than these leave out.
_MEASURED = {name for names in OWN_RESULTS.values() for name in names} - {"chance"}
_MEASURED |= {"retrieval_r1", "oops_balanced", "comparison"}


def print_results(results: Any, name: str = "", mode: str = "") -> None:
    """The results of a job `name` in a `mode`, as text; those of other jobs stay in the folder."""
    if not isinstance(results, Mapping):
        print(results)
        return
    others = [result for result in results if result not in _MEASURED]
    own = OWN_RESULTS.get(f"{name} {mode}", OWN_RESULTS.get(name, others))
    print(results_text({result: results[result] for result in own if result in results}))


def _run(words: Sequence[str]) -> None:
    """Run a command line to its end, and print what comes out of it."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), flush=True)
        return
    function, config = parse_command(words)
    try:
        results = function(config)
    except BrokenPipeError as error:  # not of standard output, to which no job writes
        raise MachineError("another process of this job is gone; start again to go on") from error
    is_main_process = os.environ.get("RANK", "0") == "0"
    if results is not None and is_main_process:
        print_results(results, words[0], getattr(config, "mode", ""))
    sys.stdout.flush()


# ---- the terminal, and other programs around a command


def _open_streams() -> None:
    """Have standard input, output and error open; a daemon closes them, and so does `>&-`.

    The next file that is opened would take the number of a closed one, and get what libraries
    write there. A name that the output's encoding lacks is written with backslashes.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    while nowhere < 3:
        os.set_inheritable(nowhere, True)
        nowhere = os.dup(nowhere)
    os.close(nowhere)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_unwritten() -> None:
    """Send what could not be printed nowhere.

    Python would try once more at exit, complain, and change the exit status.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _OneLine(logging.Formatter):
    """A record as one line that is safe to print: other libraries put names of files into theirs.

    Of a warning that is its first line; the second quotes a program.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return printable(text.partition("\n")[0] if record.name == "py.warnings" else text)


def _set_up_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(True)
    logger.setLevel(logging.INFO)


class _Ended(KeyboardInterrupt):
    """A signal that ends programs, as an exception: so processes end, and half-made files go."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """While this lasts, SIGTERM and SIGHUP raise `_Ended`, once; one that is ignored stays so.

    In a callback of Python's own, as for the end of an object, an exception is dropped: then the
    signal, and Ctrl-C as well, is sent once more.
    """

    def end(signum: int, frame: object) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise _Ended(signum)

    def send_again(dropped: Any) -> None:
        stop = dropped.exc_value
        if not isinstance(stop, KeyboardInterrupt):
            former_hook(dropped)
            return
        signum = getattr(stop, "signum", signal.SIGINT)
        if signum in found:
            signal.signal(signum, end)
        threading.Timer(0.1, os.kill, (os.getpid(), signum)).start()

    found = []
    if threading.current_thread() is threading.main_thread():
        signals = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
        found = [one for one in signals if one and signal.getsignal(one) == signal.SIG_DFL]
    for one in found:
        signal.signal(one, end)
    former_hook = sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = former_hook
        for one in found:
            signal.signal(one, signal.SIG_DFL)


def _explain(error: BaseException) -> str:
    """One line for an error that is the user's to fix; '' for a defect of ours."""
    if isinstance(error, MemdpcError):
        return str(error)
    short = explain(error)
    if short or not isinstance(error, OSError):
        return short
    text = str(error)
    if error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return printable(" ".join(text.split()))


def _leave(text: object, status: int) -> NoReturn:
    """End with a line on standard error, if it can be written."""
    with suppress(OSError):
        print(f"memdpc: {text}", file=sys.stderr)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `memdpc` and `python -m memdpc`.

    Exit status: 0 when done; 2, and one line, for what the user can fix; 128 and the signal's
    number for a run that a signal stopped. A traceback is a bug.
    """
    _open_streams()
    _set_up_logging()
    try:
        with _signals_as_exceptions():
            _run(sys.argv[1:] if argv is None else argv)
    except Stopped as stop:
        _leave(stop, stop.status)
    except KeyboardInterrupt as stop:
        signum = getattr(stop, "signum", signal.SIGINT)
        _leave("stopped; what was found or written whole is kept", 128 + signum)
    except Exception as error:
        _drop_unwritten()
        if isinstance(error, BrokenPipeError):
            return  # `memdpc ... | head`: nobody reads on
        line = _explain(error)
        if not line:
            raise
        _leave(line, 2)


__all__ = ["main"]
