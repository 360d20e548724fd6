"""Execute notebooks in place, and tell how long each took: python .ci/execute.py [NOTEBOOK ...]

A notebook that fails stays as it was. Cells with a directive of settings.ini's tst_flags, or with
`eval: false`, keep their outputs. No widget enters the file. Lessons and guides run in their own
folder, as nbdev_test and JupyterLab run them; the notebooks of nbs/runs/ run at the top, as
papermill runs them.
"""

import argparse
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from configparser import ConfigParser
from multiprocessing import get_context
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"


def all_notebooks() -> list[Path]:
    """Every notebook of the project: lessons and guides first, then the runs."""
    found = [
        path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    ]
    return sorted(found, key=lambda path: (is_run(path), path))


def is_run(path: Path) -> bool:
    """Whether a notebook is one that papermill runs."""
    return path.parent.name == "runs"


def skip_flags() -> set[str]:
    """The directives that keep a cell from running: settings.ini's tst_flags."""
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return set(config["DEFAULT"]["tst_flags"].split())


class Client(NotebookClient):
    """Runs every cell but those whose directives say otherwise."""

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        if skipped(cell.source):
            return cell
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def skipped(source: str) -> bool:
    """Whether a cell's directives keep it from running."""
    flags = skip_flags()
    for name, value in re.findall(r"^#\|\s*(\S+)[ \t]*(\S*)", source, re.M):
        if name in flags or (name == "eval:" and value.lower() == "false"):
            return True
    return False


def client_for(notebook: nbformat.NotebookNode, path: Path, timeout: int) -> Client:
    """A client that runs a notebook where its readers run it."""
    folder = ROOT if is_run(path) else path.parent
    return Client(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )


def execute(path: Path) -> float:
    """Execute one notebook and write it back whole. Gives the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    client_for(notebook, path, timeout=1800).execute()
    seconds = time.monotonic() - start
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if WIDGET not in output.get("data", {})
            ]
    aside = path.with_name(f".{path.name}.new")
    nbformat.write(notebook, aside)
    os.replace(aside, path)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of nbs/")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    paths = [path.resolve() for path in options.notebooks] or all_notebooks()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(execute, path): path for path in paths}
        for job in as_completed(jobs):
            name = str(jobs[job].relative_to(ROOT))
            error = job.exception()
            if error is None:
                print(f"{job.result():6.1f} s {name}", flush=True)
            else:
                failed.append(name)
                print(f"FAILED   {name}\n{type(error).__name__}: {error}", flush=True)
    if failed:
        sys.exit("failed, and left as they were: " + ", ".join(failed))


if __name__ == "__main__":
    main()
