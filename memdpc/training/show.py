"""`memdpc show FOLDER`: what a run, or a folder of results, holds, as tables of plain text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from memdpc.base.config import (
    CLASSIFY_PRESETS,
    PRETRAIN_PRESETS,
    OopsConfig,
    ShowConfig,
)
from memdpc.base.errors import ConfigError, TrainingError, printable
from memdpc.base.files import checkpoints_in, read_json, step_of
from memdpc.training.folder import (
    read_metrics,
    read_results,
    read_state,
)

# Where a run's settings may have started: `job preset`, and the settings themselves.
_STARTS = {
    **{f"pretrain {name}": asdict(config) for name, config in PRETRAIN_PRESETS.items()},
    **{f"classify {name}": asdict(config) for name, config in CLASSIFY_PRESETS.items()},
    "oops": asdict(OopsConfig()),
}
_WIDEST = 60  # characters of a cell


def show(config: ShowConfig) -> str:
    """What a folder holds: a run's progress, its settings, its results; arrays of features.

    `ConfigError` where there is nothing of the kind, `TrainingError` for a damaged file.
    """
    folder = Path(config.folder)
    if not config.folder or not folder.is_dir():
        raise ConfigError(f"{config.folder or 'no folder'}: name a run, or a folder of results")
    parts = [
        *_run_parts(folder),
        *_result_parts(folder),
        *_feature_parts(folder),
    ]
    if not parts:
        raise ConfigError(f"{folder}: holds no run and no results")
    return "\n\n".join([printable(folder), *parts])


# ---- a run


def _run_parts(folder: Path) -> Iterator[str]:
    """A run's progress, settings, last values and checkpoints."""
    if (folder / "config.json").is_file():
        yield _settings(folder)
    kept = checkpoints_in(folder)
    if not kept:
        return
    state = read_state(kept[-1])
    yield table("progress", _progress(folder, state))
    if (folder / "metrics.csv").exists():
        yield table("last values", _last_values(folder))
    best = state["best"][0] if state["best"] else None
    marks = {kept[-1]: ["last"]}
    rows = []
    for path in kept:
        words = marks.get(path, []) + ["best"] * (step_of(path) == best)
        rows.append([path.name, _megabytes(path), " and ".join(words)])
    yield table("checkpoints", rows)


def _settings(folder: Path) -> str:
    """The settings that differ from those of the nearest preset."""
    file = folder / "config.json"
    saved = read_json(file, TrainingError(f"{file}: damaged"))
    others = {name: _differences(saved, start) for name, start in _STARTS.items()}
    nearest = min(others, key=lambda name: len(others[name]))
    return table(f"settings other than those of {nearest}", others[nearest])


def _differences(saved: Mapping[str, Any], start: Mapping[str, Any]) -> list[list[Any]]:
    """`[name, value]` of what is not as at the start; tuples were saved as lists."""
    plain = {name: list(value) if type(value) is tuple else value for name, value in start.items()}
    names = dict.fromkeys([*saved, *plain])
    return [
        [name, saved.get(name, "not there")]
        for name in names
        if name not in saved or name not in plain or saved[name] != plain[name]
    ]


def _progress(folder: Path, state: Mapping[str, Any]) -> list[list[Any]]:
    finished = "steps" in read_results(folder)
    rows = [
        ["state", "finished" if finished else "stopped, or at work"],
        ["step", f"{state['step']} of {state.get('total_steps', 'an unknown number')}"],
        ["seconds", state["seconds"]],
        ["processes", state["processes"]],
    ]
    if state["best"]:
        step, loss = state["best"]
        rows.append(["best validation", f"loss {_cell(loss)} at step {step}"])
    return rows


def _last_values(folder: Path) -> list[list[Any]]:
    """The last logged value of each name, of training and of validation."""
    last = {(row["split"], row["name"]): row for row in read_metrics(folder)}
    return [
        [split, name, float(row["value"]), f"step {row['step']}"]
        for (split, name), row in last.items()
    ]


def _megabytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return f"{size / 1e6:.1f} MB"


# ---- results and features


def _result_parts(folder: Path) -> Iterator[str]:
    """What metrics.json holds: plain values first, then a table for each list of rows."""
    results = read_results(folder)
    plain = list(_plain_values(results))
    if plain:
        yield table("results", plain)
    for name, value in results.items():
        if _is_rows(value):
            columns = list(dict.fromkeys(column for row in value for column in row))
            rows = [[row.get(column, "") for column in columns] for row in value]
            yield table(name, [columns, *rows])


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _plain_values(results: Mapping[str, Any], above: str = "") -> Iterator[list[Any]]:
    """`[name, value]` of all values but tables; what lies in a dict has its name before it."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from _plain_values(value, f"{above}{name} ")
        elif not _is_rows(value):
            yield [f"{above}{name}", value]


def _feature_parts(folder: Path) -> Iterator[str]:
    """A table of the arrays of each part of the features in a folder."""
    for index in sorted(folder.rglob("index.csv")):
        arrays = sorted(index.parent.glob("*.npy"))
        if arrays:
            rows = [[path.name, *_about_array(path)] for path in arrays]
            yield table(f"features in {index.parent.relative_to(folder)}", rows)


def _about_array(path: Path) -> list[str]:
    """Shape and type of an array, from its file's head; `TrainingError` where it is damaged."""
    if not path.is_file():  # a pipe would be waited for
        raise TrainingError(f"{path}: damaged (no plain file)")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy reads the head as a program's text, which may be any
        raise TrainingError(f"{path}: damaged") from error
    return [" x ".join(map(str, array.shape)), str(array.dtype)]


# ---- text


def table(title: str, rows: Iterable[Sequence[Any]]) -> str:
    """Rows of cells in columns, under a title; any text in them is safe to print."""
    cells = [[_cell(value) for value in row] for row in rows]
    count = max(map(len, cells), default=0)
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(count)]
    lines = [printable(title)]
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append(("  " + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """A value as a cell shows it, cut to the widest."""
    text = printable(f"{value:.4g}" if isinstance(value, float) else value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


__all__ = ["show"]
