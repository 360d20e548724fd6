"""A run's folder: what is in it, and how it stays whole whenever the process is killed.

| file | what |
|---|---|
| `config.json` | every setting |
| `videos.jsonl` | a line per video: part, path, bytes, frames, label |
| `metrics.csv` | a row per logged value: step, epoch, split, name, value |
| `checkpoints/step-XXXXXXXX/` | model, its config, optimizer state, `state.json`: last and best |
| `metrics.json` | written at the end: results, version, seed, device, seconds |

`metrics.csv` carries no times: two equal runs have equal files. Rows after the last checkpoint are
cut away on resume, since the resumed run writes them again. A run with `steps` in its
`metrics.json` is finished.

A resumed run must have the same settings, but for its folder, its device, its number of workers and
which checkpoints it keeps. It may be made longer (`epochs`, `max_steps`), even when it is finished.
Its dataset may lie elsewhere; the videos must be the same, unless `accept_changed_data` says that
others will do. The number of threads is kept, since the last bits of a sum depend on it
(`memdpc.training.processes`).
"""

import csv
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from filelock import BaseFileLock
from torch import nn
from torch.optim import Optimizer

from memdpc import __version__
from memdpc.base.config import save_config
from memdpc.base.errors import CheckpointError, ConfigError, TrainingError
from memdpc.base.files import (
    append_bytes,
    atomic_write,
    checkpoints_in,
    clear_parts,
    fsync_path,
    hold_folder,
    output_folder,
    part_name,
    step_of,
    turn,
    write_bytes,
    write_failure,
    write_json,
)
from memdpc.data.videos import VideoList
from memdpc.method.saving import check_entries, load_strictly
from memdpc.method.weights import read_pickle, read_tensors
from memdpc.training.changes import Changes, changes_since, fingerprint, video_changes
from memdpc.training.folder import (
    METRICS,
    read_metrics,
    read_results,
    read_state,
    readable,
)
from memdpc.training.optimizer_state import load_optimizer

logger = logging.getLogger(__name__)

VERSIONS = {"version": __version__, "torch": torch.__version__}


class Run:
    """A run's folder: `config.json`, `metrics.csv`, `metrics.json`, `checkpoints/step-XXXXXXXX/`.

    Only the main process writes, and holds the folder's lock while it lives. `state` is that of the
    last checkpoint: its step, the best validation `[step, loss]`, the last validation's values, how
    many processes there were, and the seconds spent so far. `ConfigError` where `config` (of any
    job, with `resume`) or `videos` (of each part of the data that the run depends on; None: not
    known yet) do not fit the folder, or another process is at work there.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        config: Any,
        main: bool = True,
        processes: int = 1,
        videos: Mapping[str, VideoList] | None = None,
    ) -> None:
        self.folder = output_folder(out)
        self.checkpoints = self.folder / "checkpoints"
        self.main = main
        self.keep_all: bool = getattr(config, "keep_checkpoints", False)
        self.videos = None if videos is None else fingerprint(videos)
        self.began = time.monotonic()
        self.state: dict[str, Any] = {
            "step": 0,
            "best": None,
            "values": {},
            "processes": processes,
            "seconds": 0.0,
        }
        self.moved = False  # whether the dataset lies elsewhere than at the start
        self.notes: list[str] = []  # what is no longer as it was, a line each
        self.longer = bool(config.resume and self.complete and self._changes(config).longer)
        if not self.finished:
            output_folder(out, "config.json", "metrics.json", "metrics.csv", "checkpoints/step")
        writes = main and not self.finished
        self.lock: BaseFileLock | None = hold_folder(self.folder) if writes else None
        if self.checkpoint() or self.complete:
            self._go_on(config)
        if writes:
            _prepare_folder(self, config)

    def _changes(self, config: Any) -> Changes:
        return changes_since(config, self.folder / "config.json")

    def _go_on(self, config: Any) -> None:
        """Take up the last checkpoint's state, if what the run was begun with is the same."""
        if not config.resume:
            ways = "go on with --resume True, or choose another out"
            raise ConfigError(f"{self.folder}: holds a run already; {ways}")
        changes = self._changes(config)
        changed = list(changes.refused)
        checkpoint = self.checkpoint()
        saved = self.state if checkpoint is None else read_state(checkpoint)
        if saved["processes"] != self.state["processes"]:
            changed.append(f"processes: {saved['processes']} -> {self.state['processes']}")
        if changes.moved and not self.videos_file.exists():
            changed.append(changes.moved)
        if changed:
            differences = "; ".join(sorted(changed))
            raise ConfigError(f"{self.folder}: was begun with other settings ({differences})")
        if changes.longer and checkpoint is None:
            raise ConfigError(f"{self.folder}: no checkpoint to go on from; choose another out")
        self.state |= saved
        self.moved = bool(changes.moved)
        self.longer = bool(changes.longer)
        self.notes += [changes.longer] if changes.longer else []
        self._check_videos(getattr(config, "accept_changed_data", False))

    def _check_videos(self, accept: bool) -> None:
        """Refuse other videos than those that the run was begun with, or accept and say so."""
        if self.videos is None:
            return
        if not self.videos_file.exists():
            self.notes.append("begun without a list of its videos: nobody can tell if they changed")
            return
        changed = video_changes(self.videos_file, self.videos)
        if changed and not accept:
            ways = "bring them back, or go on with --accept_changed_data True"
            raise ConfigError(f"{self.folder}: its videos changed: {changed}; {ways}")
        if changed:
            inexact = "order of clips, length of epochs and schedule are now those of other videos"
            self.notes.append(f"its videos changed: {changed}; {inexact}")

    @property
    def videos_file(self) -> Path:
        """The fingerprint of the videos that the run was begun with."""
        return self.folder / "videos.jsonl"

    def checkpoint(self) -> Path | None:
        """Folder of the last checkpoint, or None."""
        return max(checkpoints_in(self.folder), key=step_of, default=None)

    @property
    def last_good(self) -> str:
        """The end of an error message: which checkpoint is safe on disk."""
        return f"last good checkpoint: {self.checkpoint() or 'none'}"

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, over all the times that it was resumed."""
        return round(self.state["seconds"] + time.monotonic() - self.began, 1)

    @property
    def complete(self) -> bool:
        """Whether the run came to an end.

        Other measurements of a network write to the same `metrics.json`, but no `steps`.
        """
        return "steps" in read_results(self.folder)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: the run is complete, and is not made longer."""
        return self.complete and not self.longer


def _prepare_folder(run: Run, config: Any) -> None:
    """Make a run's folder, or clear away what a kill left in it.

    That is what was half written, checkpoints that are no longer needed, and rows of metrics after
    the last checkpoint.
    """
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    clear_parts(run.folder)
    clear_parts(run.checkpoints)
    begins = run.checkpoint() is None
    if run.longer:  # first of all it is no longer finished, whenever this is killed
        with turn(run.folder / ".metrics.json"):  # a measurement may be adding its own
            results = read_results(run.folder)
            results.pop("steps", None)
            write_json(run.folder / "metrics.json", results)
    if begins or run.longer or run.moved:
        with atomic_write(run.folder / "config.json") as part:
            save_config(config, part)
    if not begins:
        _keep_last_and_best(run)
    _cut_metrics(run, run.state["step"])
    for note in run.notes:
        logger.warning("%s: %s", run.folder, note)


def note_length(run: Run, total_steps: int) -> None:
    """Note how many steps a run makes in all, and of which videos.

    `ConfigError` where its end lies behind it: a run that other videos or settings cut
    short would end at once, and pass for a finished one.
    """
    done = run.state["step"]
    planned = run.state.get("total_steps", total_steps)
    if done > total_steps or done == total_steps < planned:
        now = f"its videos and settings now give {total_steps} in all"
        raise ConfigError(f"{run.folder}: is at step {done} of {planned}, {now}; raise epochs")
    run.state["total_steps"] = total_steps
    if run.main and run.videos is not None:
        write_bytes(run.videos_file, run.videos)


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


def _cut_metrics(run: Run, step: int) -> None:
    """Cut metrics.csv back to `step`: a resumed run writes what came after it again."""
    file = run.folder / "metrics.csv"
    rows = read_metrics(run.folder) if os.path.lexists(file) else []
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
    for folder in checkpoints_in(run.folder):
        if folder.name not in kept:
            hidden = part_name(run.checkpoints)  # a rename takes no space, where the disk is full
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

    `TrainingError` where the checkpoint is damaged, `ConfigError` where it is of another model.
    """
    folder = run.checkpoint()
    if folder is None:
        return 0
    with readable(folder):
        entries = read_tensors(folder / "model.safetensors")
    try:
        check_entries(model, entries)
    except CheckpointError as error:
        raise ConfigError(f"{folder}: not of this model ({error})") from error
    with readable(folder):
        load_strictly(model, entries)
        load_optimizer(optimizer, read_pickle(folder / "optimizer.pt"), run.state["step"])
    return run.state["step"]


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
