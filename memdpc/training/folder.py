"""The files of a run's folder, read with care: a disk or a stranger may have put anything there.

Nothing here imports torch, so that a run can be looked at in a moment.
"""

import csv
import io
import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from memdpc.base.errors import CheckpointError, TrainingError
from memdpc.base.files import (
    LARGEST_TEXT,
    checkpoints_in,
    is_of_machine,
    read_json,
    read_plain,
    step_of,
)

METRICS = ("step", "epoch", "split", "name", "value")  # the columns of metrics.csv

# What reading a checkpoint may raise that a disk damaged, or that was copied in part. That a file
# may not be read, or that a disk does not answer, is no damage.
_DAMAGE = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,  # and RecursionError
    TypeError,
    ValueError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
    CheckpointError,
)


# ---- checkpoints


@contextmanager
def readable(checkpoint: Path) -> Iterator[None]:
    """Turn any error of reading a damaged checkpoint into one line that says what to do."""
    try:
        yield
    except _DAMAGE as error:
        if is_of_machine(error):
            raise
        known = checkpoints_in(checkpoint.parent.parent)
        earlier = [folder.name for folder in known if step_of(folder) < step_of(checkpoint)]
        then = f"go on from {earlier[-1]}" if earlier else "begin anew"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = f"remove this folder, and --resume True will {then}"
        raise TrainingError(f"{checkpoint}: damaged ({reason}); {advice}") from error


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint's `state.json` holds, each value one that a run can have written.

    `TrainingError` where it is damaged.
    """
    with readable(checkpoint):
        state = read_json(checkpoint / "state.json", CheckpointError("state.json holds no state"))
        for name, fits in _STATE.items():
            value = state.get(name)
            if not (fits(value) or name in _YOUNGER and name not in state):
                raise ValueError(f"{name} is {value!r:.40}")
        if state["step"] != step_of(checkpoint):
            raise ValueError(f"step is {state['step']}")
        if state["best"] and state["best"][0] > state["step"]:
            raise ValueError(f"best is {state['best']!r:.40}")
    return state


def is_count(value: object) -> bool:
    """Whether a value is a whole number from 1."""
    return type(value) is int and value > 0


def _is_number(value: object) -> bool:
    return type(value) is int or type(value) is float


def _is_best(value: object) -> bool:
    """None, or `[step, loss]`."""
    if value is None:
        return True
    if not isinstance(value, list) or len(value) != 2:
        return False
    step, loss = value
    return is_count(step) and _is_number(loss) and math.isfinite(loss)


def _is_arithmetic(value: object) -> bool:
    return isinstance(value, dict) and is_count(value.get("threads"))


_STATE = {
    "step": is_count,
    "best": _is_best,
    "values": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "processes": is_count,
    "seconds": lambda value: _is_number(value) and 0 <= value < 1e12,  # 30,000 years
    "total_steps": is_count,
    "arithmetic": _is_arithmetic,
    "dropped": is_count,
}
_YOUNGER = ("total_steps", "arithmetic", "dropped")  # not in every run's state


# ---- tables and results


def read_metrics(folder: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv; a last line that a kill cut short is left out.

    `TrainingError` where the file is damaged.
    """
    file = Path(folder) / "metrics.csv"
    try:
        text = read_plain(file, LARGEST_TEXT).decode()
        whole_lines = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(whole_lines, newline=""), strict=True))
        for row in rows:
            _check_row(row)
    except (ValueError, csv.Error) as error:
        raise TrainingError(f"{file}: damaged; without this file the run can go on") from error
    return rows


def _check_row(row: dict[Any, Any]) -> None:
    """`ValueError` for a row that a run cannot have written."""
    if tuple(row) != METRICS or None in row.values():
        raise ValueError("other columns")
    for name in ("step", "epoch"):
        if not row[name].isdecimal() or len(row[name]) > 19:
            raise ValueError(f"a {name} that is not a number")
    float(row["value"])


def read_results(folder: str | os.PathLike) -> dict[str, Any]:
    """What a folder's metrics.json holds, {} where there is none; `TrainingError` where damaged."""
    file = Path(folder) / "metrics.json"
    if not os.path.lexists(file):
        return {}
    damaged = TrainingError(f"{file}: damaged; remove it, or choose another out")
    results = read_json(file, damaged)
    for name in ("steps", "tested_step"):
        if name in results and not is_count(results[name]):
            raise damaged
    return results


__all__ = ["read_metrics", "read_results"]
