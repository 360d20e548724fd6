"""A run's folder: what is in it, and how it stays whole whenever the process is killed."""

import csv
import io
import json
import logging
import os
import pickle
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch

from memdpc import __version__
from memdpc.base.config import config_differences, save_config
from memdpc.base.errors import ConfigError, TrainingError
from memdpc.base.files import atomic_write, fsync_path, hold_folder, read_json, write_failure

logger = logging.getLogger(__name__)


@contextmanager
def readable(checkpoint):
    "Turn whatever a damaged checkpoint raises into one line that says what to do."
    try:
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        others = [folder.name for folder in checkpoint.parent.glob("step-*") if folder < checkpoint]
        then = f"go on from {max(others)}" if others else "begin anew"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"{checkpoint}: damaged ({reason}); remove this folder, and --resume True will {then}"
        ) from None


METRICS = ("step", "epoch", "split", "name", "value")  # the columns of metrics.csv


def log_metrics(run, step, epoch, split, values):
    "Append a row to metrics.csv for each of `values`; numbers are written so that they read back to the bit."
    if not run.main:
        return
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows(
        (step, epoch, split, name, repr(float(value))) for name, value in values.items()
    )
    file = run.folder / "metrics.csv"
    try:
        with open(file, "a", encoding="utf-8") as out:
            out.write(rows.getvalue())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def read_metrics(folder):
    "The rows of a run's metrics.csv as dicts; a last line that a kill cut short is left out. `TrainingError` where it is damaged."
    file = Path(folder) / "metrics.csv"
    try:
        text = file.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        if not all(row["step"].isdecimal() for row in rows):
            raise ValueError
    except (ValueError, KeyError, AttributeError, csv.Error):
        raise TrainingError(f"{file}: damaged; without this file the run can go on") from None
    return rows


def read_results(folder):
    "What a folder's metrics.json holds, {} where there is none. `TrainingError` where it is damaged."
    file = Path(folder) / "metrics.json"
    return (
        read_json(file, TrainingError(f"{file}: damaged; remove it, or choose another out"))
        if file.is_file()
        else {}
    )


def cut_metrics(run, step):
    "Take metrics.csv back to `step`: what a lost stretch of the run wrote will be written again."
    file = run.folder / "metrics.csv"
    rows = (
        [row for row in read_metrics(run.folder) if int(row["step"]) <= step]
        if file.is_file()
        else []
    )
    with atomic_write(file) as aside, open(aside, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, METRICS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def keep_last_and_best(run):
    "Drop every checkpoint but the last and the best (unless the run keeps all); each vanishes at once, so that no part of it can pass for a whole one."
    if run.keep_all:
        return
    best = run.state["best"]
    kept = {run.checkpoint().name} | ({f"step-{best[0]:08d}"} if best else set())
    for folder in run.checkpoints.glob("step-*"):
        if folder.name in kept:
            continue
        hidden = folder.with_name(f".{folder.name}.old")
        os.replace(folder, hidden)
        shutil.rmtree(hidden)


def prepare_folder(run, config):
    "Make a run's folder, or clear away what a kill left in it: half-written and superseded checkpoints, and rows after the last checkpoint."
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    for left in run.checkpoints.glob(".step-*"):
        shutil.rmtree(left)
    if run.checkpoint() is None:
        with atomic_write(run.folder / "config.json") as aside:
            save_config(config, aside)
    else:
        keep_last_and_best(run)
    cut_metrics(run, run.state["step"])


class Run:
    """A run's folder: `config.json`, `metrics.csv`, `metrics.json`, `checkpoints/step-XXXXXXXX/`.

    Only the main process writes. `state` is that of the last checkpoint: its step, the best validation `[step, loss]`, the last
    validation's values, how many processes there were, and the seconds spent so far. `ConfigError` where `config` does not fit the folder,
    or another process is at work there.
    """

    def __init__(self, out, config, main=True, processes=1):
        if not str(out):
            raise ConfigError("no out: name the run's folder")
        self.folder, self.main, self.began = Path(out), main, time.monotonic()
        self.checkpoints, self.keep_all = (
            self.folder / "checkpoints",
            getattr(config, "keep_checkpoints", False),
        )
        self.held = hold_folder(self.folder) if main and not self.finished else None
        self.state = {"step": 0, "best": None, "values": {}, "processes": processes, "seconds": 0.0}
        if self.checkpoint() or self.finished:
            self.go_on(config)
        if main and not self.finished:
            prepare_folder(self, config)

    def go_on(self, config):
        "Take up the last checkpoint's state, if `config` is the one that the run began with."
        if not config.resume:
            raise ConfigError(
                f"{self.folder}: holds a run already; go on with --resume True, or choose another out"
            )
        changed, saved = config_differences(config, self.folder / "config.json"), self.state
        if self.checkpoint():
            with readable(self.checkpoint()):
                saved = self.state | dict(
                    json.loads((self.checkpoint() / "state.json").read_text())
                )
        if saved["processes"] != self.state["processes"]:
            changed.append(f"processes: {saved['processes']} -> {self.state['processes']}")
        if changed:
            raise ConfigError(
                f"{self.folder}: was begun with other settings ({'; '.join(sorted(changed))})"
            )
        self.state = saved

    def checkpoint(self):
        "Folder of the last checkpoint, or None."
        return max(self.checkpoints.glob("step-*"), default=None)

    @property
    def seconds(self):
        return round(
            self.state["seconds"] + time.monotonic() - self.began, 1
        )  # over all the times it was resumed

    @property
    def finished(self):
        "Whether the run came to its end: measurements of a network write to the same metrics.json, but no `steps`."
        return "steps" in read_results(self.folder)


def save_checkpoint(run, step, model, optimizer):
    "Write `checkpoints/step-XXXXXXXX` whole or not at all, then drop the older ones that the run does not keep. Weights that are no numbers are not saved."
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise TrainingError(
            f"a weight is no number after step {step}; last good checkpoint: {run.checkpoint() or 'none'}"
        )
    folder = run.checkpoints / f"step-{step:08d}"
    if (run.folder / "metrics.csv").exists():
        fsync_path(run.folder / "metrics.csv")  # its rows up to this step belong to the checkpoint
    try:
        with atomic_write(folder) as aside:
            model.save_pretrained(aside)
            torch.save(optimizer.state_dict(), aside / "optimizer.pt")
            state = run.state | {"step": step, "seconds": run.seconds, "version": __version__}
            (aside / "state.json").write_text(json.dumps(state))
    except (
        OSError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:  # a full disk can be each of them
        raise TrainingError(
            f"{write_failure(folder, error)}; last good checkpoint: {run.checkpoint() or 'none'}"
        ) from None
    keep_last_and_best(run)


def restore(run, model, optimizer):
    "Load the last checkpoint into `model` and `optimizer`; returns its step, 0 where there is none. `TrainingError` where it is damaged."
    folder = run.checkpoint()
    if folder is None:
        return 0
    with readable(folder):
        model.load_state_dict(safetensors.torch.load((folder / "model.safetensors").read_bytes()))
        optimizer.load_state_dict(
            torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        )
    return run.state["step"]


VERSIONS = {"version": __version__, "torch": torch.__version__}


def add_results(folder, facts, main):
    "Add `facts` to a folder's metrics.json, beside what was measured there before; returns what it holds. Only the `main` process writes."
    known = read_results(folder) | facts
    if main:
        with atomic_write(Path(folder) / "metrics.json") as aside:
            aside.write_text(json.dumps(known, indent=2) + "\n")
    return known


def finish(run, values, **facts):
    "Write metrics.json, which marks a run as finished: final figures, and where they come from; returns them."
    facts = values | facts | VERSIONS
    add_results(run.folder, facts, run.main)
    return facts


def write_results(config, name, result, chance):
    "Add `{name: result}` and chance to `out/metrics.json`, beside what other measurements wrote there; returns what it holds."
    return add_results(
        config.out, {name: result, "chance": chance} | VERSIONS, int(os.environ.get("RANK", 0)) == 0
    )
