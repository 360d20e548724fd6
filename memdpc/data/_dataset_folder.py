"""Folders of made datasets: claimed by a manifest, completed by any call, never mixed up."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from memdpc.base.errors import ConfigError
from memdpc.base.files import PART, clear_parts, write_json

MANIFEST = "shapes.json"  # says which dataset a folder holds
FEW = 32  # files for which no processes are started


def claim(out: Path, manifest: dict) -> None:
    """Take the folder `out` for the dataset of `manifest`: it is new, empty, or holds that dataset.

    Anything else in it is a `ConfigError`, and stays as it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / MANIFEST
    if path.is_file():
        found = _read_manifest(path)
        if found != manifest:
            raise ConfigError(
                f"{out}: holds another dataset of shapes ({found}), not {manifest}; "
                "give a new folder"
            )
    elif any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no dataset of shapes; give a new folder")
    else:
        write_json(path, manifest)


def _read_manifest(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return "unreadable"


def make_folder(folder: Path) -> None:
    """Make a folder, and remove what a killed process left half-written in it."""
    folder.mkdir(parents=True, exist_ok=True)
    clear_parts(folder)
    for part in folder.glob(f"*{PART}"):  # as earlier versions named them
        part.unlink()


def write_missing(write: Callable, tasks: Sequence[tuple], num_workers: int) -> None:
    """Call `write(task)` for each task whose file, `task[0]`, is not there yet.

    By `num_workers` processes where there are many; `write` must be a function of a module.
    """
    missing = [task for task in tasks if not os.path.exists(task[0])]
    if num_workers < 2 or len(missing) < FEW:
        for task in missing:
            write(task)
        return
    with ProcessPoolExecutor(num_workers) as pool:
        for _ in pool.map(write, missing, chunksize=8):
            pass  # an error of a process is raised here
