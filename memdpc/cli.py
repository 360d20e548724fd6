"""memdpc COMMAND: the jobs, from a shell"""

import logging
import os
import sys
from importlib import import_module

from memdpc.base import config as configs
from memdpc.base.errors import MemdpcError, printable

COMMANDS = {  # name: (what it does, module, function, presets: the first counts where none is named)
    "shapes": (
        "write the embedded dataset as video files",
        "cli",
        "write_shapes",
        {"default": configs.ShapesConfig()},
    ),
    "scan": (
        "open every file of a dataset, and say what is in it",
        "data.scan",
        "scan",
        {"default": configs.ScanConfig()},
    ),
    "prepare": (
        "make a smaller copy of a dataset",
        "data.prepare",
        "prepare",
        {"default": configs.PrepareConfig()},
    ),
    "pretrain": (
        "pretrain MemDPC on a folder of videos",
        "training.pretrain",
        "pretrain",
        {"paper-ucf101": None} | configs.PRETRAIN_PRESETS,
    ),
    "classify": (
        "action recognition: probe, linear layer, finetuning, from scratch",
        "evaluation.classify",
        "classify",
        configs.CLASSIFY_PRESETS,
    ),
    "features": (
        "features of every video of a dataset, as plain arrays",
        "evaluation.features",
        "write_features",
        {"default": configs.FeaturesConfig()},
    ),
    "retrieve": (
        "nearest neighbours: R@k, with its baselines",
        "evaluation.retrieve",
        "retrieve",
        {"default": configs.RetrieveConfig()},
    ),
    "atlas": (
        "what the slots of a memory hold, and which futures it weighs",
        "evaluation.atlas",
        "atlas",
        {"default": configs.AtlasConfig()},
    ),
    "oops": (
        "intentional, transition or unintentional action, with the baselines",
        "evaluation.oops",
        "oops",
        {"default": configs.OopsConfig()},
    ),
    "benchmark": (
        "time the way of a clip from file to network",
        "training.benchmark",
        "benchmark",
        {"default": configs.BenchmarkConfig()},
    ),
}


def write_shapes(config):
    "`memdpc shapes`: the embedded datasets, actions and mishaps, written to `config.out`."
    from memdpc.data import mishaps, shapes

    if not config.out:
        raise configs.ConfigError("no out: name the dataset's folder")
    out = shapes.write_shapes(config.out, config.videos_per_class, config.seed, config.num_workers)
    mishaps.write_mishaps(
        out / "oops_dataset", max(4, config.videos_per_class // 2), config.seed, config.num_workers
    )


def usage():
    "The text of `memdpc --help`."
    lines = [f"  {name:10} {about}" for name, (about, *_) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: memdpc COMMAND [--FIELD VALUE ...]",
            "",
            *lines,
            "",
            "`memdpc COMMAND --help` lists the fields of a command.",
            f"`memdpc pretrain --preset NAME` starts from {', '.join(COMMANDS['pretrain'][3])}; without it, from the first. So does `classify`.",
        ]
    )


def parse_command(argv):
    "`(function, config)` of a command line, `(None, None)` for help; anything wrong is a `ConfigError`."
    if not argv or argv[0] in ("-h", "--help", "help"):
        return None, None
    name, args = argv[0], list(argv[1:])
    if name not in COMMANDS:
        raise configs.ConfigError(f"no command {name!r}: choose one of {', '.join(COMMANDS)}")
    _, module, function, presets = COMMANDS[name]
    preset = next(iter(presets))
    args = [
        word
        for given in args
        for word in (given.split("=", 1) if given.startswith("--preset=") else [given])
    ]
    if "--preset" in args and len(presets) > 1:
        at = args.index("--preset")
        preset = (args[at + 1 : at + 2] or [""])[0]
        del args[at : at + 2]
        if preset not in presets:
            raise configs.ConfigError(f"no preset {preset!r}: choose one of {', '.join(presets)}")
    if len(presets) > 1 and {"-h", "--help"} & set(args):
        print(f"--preset NAME  what the fields start from: {', '.join(presets)}; here {preset}\n")
    config = configs.parse(presets[preset], args, f"memdpc {name}")
    return getattr(import_module(f"memdpc.{module}"), function), config


def fail(error):
    "One line on standard error, exit status 2."
    text = (
        f"{error.filename}: {error.strerror}"
        if isinstance(error, OSError) and error.filename and error.strerror
        else str(error)
    )
    print(f"memdpc: {printable(' '.join(text.split()))}", file=sys.stderr)
    sys.exit(2)


def show(result, above=""):
    "The final figures, a line each; tables, as that of a verdict, stay in metrics.json."
    for name, value in result.items():
        if isinstance(value, dict):
            show(value, f"{above}{name} ")
        elif not isinstance(value, list):
            print(
                f"{above + name:44} {value:.3f}"
                if isinstance(value, float)
                else f"{above + name:44} {value}"
            )


def main(argv=None):
    "Entry point of `memdpc` and `python -m memdpc`: 0, or 2 and one line for what the user can mend, or 128 + the signal that stopped a run."
    logging.basicConfig(format="%(message)s")
    logging.getLogger("memdpc").setLevel(logging.INFO)
    try:
        function, config = parse_command(sys.argv[1:] if argv is None else argv)
        if function is None:
            return print(usage(), flush=True)
        result = function(config)
        if result is not None and int(os.environ.get("RANK", 0)) == 0:
            show(result) if isinstance(result, dict) else print(result)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # `| head`: nobody reads on, and the job is done
    except (MemdpcError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        logging.getLogger("memdpc").warning(
            "memdpc: stopped; what was found or written whole is kept"
        )
        sys.exit(130)
    except Exception as error:  # Stopped lives beside torch, which is not imported for its sake
        if type(error).__name__ != "Stopped":
            raise
        print(f"memdpc: {error}", file=sys.stderr)
        sys.exit(error.status)
