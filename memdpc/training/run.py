"""A run's folder: what is in it, and how it stays whole whenever the process is killed.

| file | what |
|---|---|
| `config.json` | every setting; a resumed run must have the same |
| `metrics.csv` | a row per logged value: step, epoch, split, name, value |
| `checkpoints/step-XXXXXXXX/` | model, its config, optimizer state, `state.json`: last and best |
| `metrics.json` | written at the end: results, version, seed, device, seconds |

`metrics.csv` carries no times: two equal runs have equal files. Rows after the last checkpoint are
cut away on resume, since the resumed run writes them again. A run with `steps` in its
`metrics.json` is finished.
"""

import csv
import io
import json
import os
import pickle
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import BaseFileLock
from torch import nn
from torch.optim import Optimizer

from memdpc import __version__
from memdpc.base.config import config_differences, save_config
from memdpc.base.errors import ConfigError, TrainingError
from memdpc.base.files import (
    PART,
    append_bytes,
    atomic_write,
    clear_parts,
    fsync_path,
    hold_folder,
    output_folder,
    read_json,
    turn,
    write_failure,
    write_json,
)

METRICS = ("step", "epoch", "split", "name", "value")  # the columns of metrics.csv
VERSIONS = {"version": __version__, "torch": torch.__version__}

# What reading a checkpoint may raise that a disk damaged, or that was copied in part.
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


@contextmanager
def readable(checkpoint: Path) -> Iterator[None]:
    """Turn any error of reading a damaged checkpoint into one line that says what to do."""
    try:
        yield
    except _DAMAGE as error:
        earlier = [folder for folder in checkpoint.parent.glob("step-*") if folder < checkpoint]
        then = f"go on from {max(earlier).name}" if earlier else "begin anew"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = f"remove this folder, and --resume True will {then}"
        raise TrainingError(f"{checkpoint}: damaged ({reason}); {advice}") from error


class Run:
    """A run's folder: `config.json`, `metrics.csv`, `metrics.json`, `checkpoints/step-XXXXXXXX/`.

    Only the main process writes, and holds the folder's lock while it lives. `state` is that of the
    last checkpoint: its step, the best validation `[step, loss]`, the last validation's values, how
    many processes there were, and the seconds spent so far. `ConfigError` where `config` (of any
    job, with `resume`) does not fit the folder, or another process is at work there.
    """

    def __init__(
        self, out: str | os.PathLike, config: Any, main: bool = True, processes: int = 1
    ) -> None:
        self.folder = output_folder(out)
        self.checkpoints = self.folder / "checkpoints"
        self.main = main
        self.keep_all: bool = getattr(config, "keep_checkpoints", False)
        self.began = time.monotonic()
        self.state: dict[str, Any] = {
            "step": 0,
            "best": None,
            "values": {},
            "processes": processes,
            "seconds": 0.0,
        }
        if not self.finished:
            output_folder(out, "config.json", "metrics.json", "metrics.csv", "checkpoints/step")
        writes = main and not self.finished
        self.lock: BaseFileLock | None = hold_folder(self.folder) if writes else None
        if self.checkpoint() or self.finished:
            self._go_on(config)
        if writes:
            _prepare_folder(self, config)

    def _go_on(self, config: Any) -> None:
        """Take up the last checkpoint's state, if `config` is the one that the run began with."""
        if not config.resume:
            ways = "go on with --resume True, or choose another out"
            raise ConfigError(f"{self.folder}: holds a run already; {ways}")
        changed = config_differences(config, self.folder / "config.json")
        saved = self.state | self._saved_state()
        if saved["processes"] != self.state["processes"]:
            changed.append(f"processes: {saved['processes']} -> {self.state['processes']}")
        if changed:
            differences = "; ".join(sorted(changed))
            raise ConfigError(f"{self.folder}: was begun with other settings ({differences})")
        self.state = saved

    def _saved_state(self) -> dict[str, Any]:
        checkpoint = self.checkpoint()
        if checkpoint is None:
            return {}
        with readable(checkpoint):
            return dict(json.loads((checkpoint / "state.json").read_text()))

    def checkpoint(self) -> Path | None:
        """Folder of the last checkpoint, or None."""
        return max(self.checkpoints.glob("step-*"), default=None)

    @property
    def last_good(self) -> str:
        """The end of an error message: which checkpoint is safe on disk."""
        return f"last good checkpoint: {self.checkpoint() or 'none'}"

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, over all the times that it was resumed."""
        return round(self.state["seconds"] + time.monotonic() - self.began, 1)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end.

        Other measurements of a network write to the same `metrics.json`, but no `steps`.
        """
        return "steps" in read_results(self.folder)


def _prepare_folder(run: Run, config: Any) -> None:
    """Make a run's folder, or clear away what a kill left in it.

    That is what was half written, checkpoints that are no longer needed, and rows of metrics after
    the last checkpoint.
    """
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    clear_parts(run.folder)
    clear_parts(run.checkpoints)
    if run.checkpoint() is None:
        with atomic_write(run.folder / "config.json") as part:
            save_config(config, part)
    else:
        _keep_last_and_best(run)
    _cut_metrics(run, run.state["step"])


def log_metrics(
    run: Run, step: int, epoch: int, split: str, values: Mapping[str, float | torch.Tensor]
) -> None:
    """Append a row to metrics.csv for each of `values`; numbers read back to the last bit."""
    if not run.main:
        return
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for name, value in values.items():
        writer.writerow((step, epoch, split, name, repr(float(value))))
    append_bytes(run.folder / "metrics.csv", rows.getvalue().encode())


def read_metrics(folder: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv; a last line that a kill cut short is left out.

    `TrainingError` where the file is damaged.
    """
    file = Path(folder) / "metrics.csv"
    try:
        text = file.read_text(encoding="utf-8")
        whole_lines = text[: text.rfind("\n") + 1].splitlines()
        rows = list(csv.DictReader(whole_lines))
        if not all(row["step"].isdecimal() for row in rows):
            raise ValueError("a step that is not a number")
    except (ValueError, KeyError, AttributeError, csv.Error) as error:
        raise TrainingError(f"{file}: damaged; without this file the run can go on") from error
    return rows


def _cut_metrics(run: Run, step: int) -> None:
    """Cut metrics.csv back to `step`: a resumed run writes what came after it again."""
    file = run.folder / "metrics.csv"
    rows = read_metrics(run.folder) if file.is_file() else []
    with atomic_write(file) as part, open(part, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, METRICS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= step)


def _keep_last_and_best(run: Run) -> None:
    """Remove every checkpoint but the last and the best, unless the run keeps all.

    Each is hidden by a rename first, so that no part of it can pass for a whole one.
    """
    last = run.checkpoint()
    if run.keep_all or last is None:
        return
    kept = {last.name}
    if run.state["best"]:
        best_step, _ = run.state["best"]
        kept.add(f"step-{best_step:08d}")
    for folder in run.checkpoints.glob("step-*"):
        if folder.name not in kept:
            hidden = folder.with_name(f".{folder.name}.old{PART}")  # `clear_parts` would find it
            os.replace(folder, hidden)
            shutil.rmtree(hidden)


def save_checkpoint(run: Run, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Write `checkpoints/step-XXXXXXXX` whole or not at all; remove older ones as the run says.

    `TrainingError` for weights that are NaN or infinite, which are not saved, and where the disk is
    full. `model` has `save_pretrained`, as every `PyTorchModelHubMixin`.
    """
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise TrainingError(f"a weight is NaN or infinite after step {step}; {run.last_good}")
    metrics = run.folder / "metrics.csv"
    if metrics.exists():
        fsync_path(metrics)  # its rows up to this step belong to the checkpoint
    folder = run.checkpoints / f"step-{step:08d}"
    hub_model: Any = model
    try:
        with atomic_write(folder) as part:
            hub_model.save_pretrained(part)
            torch.save(optimizer.state_dict(), part / "optimizer.pt")
            state = run.state | {"step": step, "seconds": run.seconds, "version": __version__}
            (part / "state.json").write_text(json.dumps(state))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # A full disk is each of them, depending on which library was writing.
        raise TrainingError(f"{write_failure(folder, error)}; {run.last_good}") from error
    _keep_last_and_best(run)


def restore(run: Run, model: nn.Module, optimizer: Optimizer) -> int:
    """Load the last checkpoint into `model` and `optimizer`; returns its step, 0 without one.

    `TrainingError` where the checkpoint is damaged.
    """
    folder = run.checkpoint()
    if folder is None:
        return 0
    with readable(folder):
        weights = (folder / "model.safetensors").read_bytes()
        model.load_state_dict(safetensors.torch.load(weights))
        # On the CPU first: `load_state_dict` moves each entry to its parameter's device.
        state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state)
    return run.state["step"]


def read_results(folder: str | os.PathLike) -> dict[str, Any]:
    """What a folder's metrics.json holds, {} where there is none; `TrainingError` where damaged."""
    file = Path(folder) / "metrics.json"
    if not file.is_file():
        return {}
    damaged = TrainingError(f"{file}: damaged; remove it, or choose another out")
    return read_json(file, damaged)


def add_results(
    folder: str | os.PathLike, results: Mapping[str, Any], main: bool
) -> dict[str, Any]:
    """Add `results` to a folder's metrics.json, beside what was measured there before.

    Returns all that it holds. Only the `main` process writes; jobs that end at once take turns.
    """
    folder = Path(folder)
    if not main:
        return read_results(folder) | dict(results)
    with turn(folder / ".metrics.json"):
        known = read_results(folder) | dict(results)
        write_json(folder / "metrics.json", known)
    return known


def finish(run: Run, values: Mapping[str, float], **facts: Any) -> dict[str, Any]:
    """Write metrics.json, which marks a run as finished: results, and where they come from."""
    results = dict(values) | facts | VERSIONS
    add_results(run.folder, results, run.main)
    return results


NETWORK_FILES = {"config.json", "model.safetensors", "README.md"}  # of `save_pretrained`


def network_folder(folder: Path) -> None:
    """`ConfigError` or `OSError` where `write_network` could not or must not write `folder`."""
    output_folder(folder, "model.safetensors")
    if folder.is_dir() and {path.name for path in folder.iterdir()} - NETWORK_FILES:
        raise ConfigError(f"{folder}: holds more than a network; choose another out")


def write_network(folder: Path, model: Any) -> None:
    """Write a model as `save_pretrained` does, whole or not at all, in place of an earlier one.

    Raises `TrainingError` where that fails.
    """
    try:
        with atomic_write(folder) as part:
            model.save_pretrained(part)
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError(write_failure(folder, error)) from error


def write_results(config: Any, results: Mapping[str, Any], chance: float) -> dict[str, Any]:
    """Add results and chance to `out/metrics.json`, in one step; returns all that it holds."""
    main = int(os.environ.get("RANK", 0)) == 0
    return add_results(config.out, {**results, "chance": chance, **VERSIONS}, main)


__all__ = ["Run", "read_metrics", "read_results"]
