"""Folders of made datasets: claimed by a manifest, completed by any call, never mixed up."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from memdpc.base.errors import ConfigError
from memdpc.base.files import PART, clear_parts, read_json, write_json

MANIFEST = "shapes.json"  # says which dataset a folder holds
FEW = 32  # files for which no processes are started


def claim(out: Path, manifest: dict) -> None:
    """Take the folder `out` for the dataset of `manifest`: it is new, empty, or holds that dataset.

    Anything else in it is a `ConfigError`, and stays as it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / MANIFEST
    if path.is_file():
        known = "holds another dataset of shapes, or a damaged one"
        unreadable = ConfigError(f"{out}: {known}; give a new folder")
        found = read_json(path, unreadable)
        if found != manifest:
            raise ConfigError(
                f"{out}: holds another dataset of shapes ({found}), not {manifest}; "
                "give a new folder"
            )
    elif any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no dataset of shapes; give a new folder")
    else:
        write_json(path, manifest)


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
