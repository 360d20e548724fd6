"""Run what trains as other processors compute, and say what failed under which arithmetic.

PyTorch and oneDNN can be told to leave out a processor's newer instructions; sums are then added
in another order and round otherwise, and a training run amplifies that. A lesson or test that
passes under one arithmetic only would fail on somebody's machine.

    python .ci/arithmetic.py                  # every lesson, the runs, the tests that train
    python .ci/arithmetic.py --only-training  # the lessons that train, one thread
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nbformat
from execute import all_notebooks, is_run

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TRAINS = re.compile(r"\.backward\(|\bpretrain\(|\bclassify\(|\boops\(|\boptimise\w*\(")


class Setting(NamedTuple):
    """An arithmetic, and the instructions that PyTorch and oneDNN may use in it."""

    name: str
    needs: str  # the processor feature, as /proc/cpuinfo calls it
    threads: int
    pytorch: str  # '': the best there is
    onednn: str

    def environment(self) -> dict[str, str]:
        """The variables that bring it about."""
        threads = str(self.threads)
        found = {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": "1",
        }
        if self.pytorch:
            found |= {"ATEN_CPU_CAPABILITY": self.pytorch, "ONEDNN_MAX_CPU_ISA": self.onednn}
        return found


SETTINGS = [
    Setting("no vector instructions", "", 1, "default", "SSE41"),
    Setting("AVX2", "avx2", 1, "avx2", "AVX2"),
    # One thread of all that this processor has is what `make test` runs.
    Setting("all this processor has, two threads", "", 2, "", ""),
]


def offered(settings: list[Setting]) -> list[Setting]:
    """The settings that this processor can compute in."""
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:  # not Linux: the plain one and the native one
        flags = set()
    return [setting for setting in settings if not setting.needs or setting.needs in flags]


def trains(path: Path) -> bool:
    """Whether a notebook's code trains a network."""
    cells = nbformat.read(path, as_version=4).cells
    return any(TRAINS.search(cell.source) for cell in cells if cell.cell_type == "code")


def commands(only_training: bool, scratch: Path) -> dict[str, list[str]]:
    """`{name: command}` of everything that is to be run under a setting."""
    found = {}
    for path in all_notebooks():
        name = str(path.relative_to(ROOT))
        if is_run(path):
            papermill = [f"{BIN}/papermill", "--no-progress-bar", str(path)]
            if not only_training:
                found[name] = [*papermill, str(scratch / path.name)]
        elif trains(path) or not only_training:
            test = [f"{BIN}/nbdev_test", "--do_print", "--n_workers", "0"]
            found[name] = [*test, "--path", str(path)]
    if not only_training:
        pytest = [f"{BIN}/pytest", "-q", "-p", "no:cacheprovider"]
        found["tests that train"] = [*pytest, "-m", "trains and not slow"]
    return found


def execute(command: list[str], setting: Setting) -> tuple[bool, float, str]:
    """Run one command under a setting: (passed, seconds, the end of its output)."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | setting.environment() | {"MPLBACKEND": "agg"},
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    nothing_ran = "No files were eligible" in done.stdout
    return done.returncode == 0 and not nothing_ran, time.monotonic() - began, done.stdout[-3000:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only-training", action="store_true", help="the lessons that train, one thread"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    settings = offered(SETTINGS)
    if options.only_training:
        settings = [setting for setting in settings if setting.threads == 1]
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        work = commands(options.only_training, Path(scratch))
        for setting in settings:
            print(f"---- {setting.name}", flush=True)
            workers = max(1, options.workers // setting.threads)
            results += run_all(work, setting, workers)
    print(f"arithmetic: {results.count(True)} passed, {results.count(False)} failed")
    sys.exit(not all(results))


def run_all(work: dict[str, list[str]], setting: Setting, workers: int) -> list[bool]:
    """Run every command under a setting, and print what came out: whether each passed."""
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(execute, command, setting) for command in work.values()]
        passed = []
        for name, job in zip(work, jobs, strict=True):
            fine, seconds, output = job.result()
            print(f"{'passed' if fine else 'FAILED':8} {seconds:6.1f} s  {name}", flush=True)
            if not fine:
                print(output, flush=True)
            passed.append(fine)
    return passed


if __name__ == "__main__":
    main()
