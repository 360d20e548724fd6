"""Execute notebooks in place, two at a time, and tell how long each took: python .ci/execute.py [NOTEBOOK ...] (default: all of nbs/).

A notebook that fails stays as it was. Cells with a directive of settings.ini's tst_flags or `eval: false` keep their outputs. No widget
enters the file. Lessons run in nbs/, as nbdev_test runs them; the notebooks of nbs/runs/ run at the top, as papermill runs them.
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


def skip_flags():
    """The directives that keep a cell from running: settings.ini's tst_flags."""
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return set(config["DEFAULT"]["tst_flags"].split())


class Client(NotebookClient):
    """Runs every cell but those whose directives say otherwise."""

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        directives = re.findall(r"^#\|\s*(\S+)[ \t]*(\S*)", cell.source, re.M)
        if any(
            name in self.flags or (name == "eval:" and value.lower() == "false")
            for name, value in directives
        ):
            return cell
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def execute(path, flags):
    """Execute one notebook and write it back whole. Gives the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    folder = path.parent if path.parent.name == "nbs" else ROOT
    client = Client(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    client.flags = flags
    start = time.monotonic()
    client.execute()
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="default: nbs/*.ipynb, then nbs/runs/*.ipynb"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    paths = [path.resolve() for path in options.notebooks] or sorted(
        ROOT.glob("nbs/*.ipynb")
    ) + sorted(ROOT.glob("nbs/runs/*.ipynb"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed, flags = [], skip_flags()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(execute, path, flags): path for path in paths}
        for job in as_completed(jobs):
            name = jobs[job].relative_to(ROOT)
            if error := job.exception():
                failed.append(name)
                print(f"FAILED   {name}\n{type(error).__name__}: {error}", flush=True)
            else:
                print(f"{job.result():6.1f} s {name}", flush=True)
    if failed:
        sys.exit("failed, and left as they were: " + ", ".join(map(str, failed)))


if __name__ == "__main__":
    main()
