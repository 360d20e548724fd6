"""Run what trains as other processors compute, and say what failed under which arithmetic.

PyTorch and oneDNN can be told to leave out a processor's newer instructions; sums are then added in another
order and round otherwise, and a training run amplifies that. A lesson or test that passes under one arithmetic
only would fail on somebody's machine.

    python .ci/arithmetic.py                # every lesson, the run notebooks, the tests that train
    python .ci/arithmetic.py --only-training    # the lessons that train, without their two-thread pass
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

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TRAINS = re.compile(r"\.backward\(|\bpretrain\(|\bclassify\(|\boops\(|\boptimise\w*\(")


class Setting(NamedTuple):
    """An arithmetic: its name, the processor feature that it needs, and what PyTorch and oneDNN may use."""

    name: str
    needs: str
    threads: int
    pytorch: str
    onednn: str

    def environment(self):
        """The variables that bring it about; without a name the library takes the best there is."""
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


def offered(settings):
    """The settings that this processor can compute in."""
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:  # not Linux: the plain one and the native one
        flags = set()
    return [setting for setting in settings if not setting.needs or setting.needs in flags]


def trains(path):
    """Whether a notebook's code trains a network."""
    cells = nbformat.read(path, as_version=4).cells
    return any(TRAINS.search(cell.source) for cell in cells if cell.cell_type == "code")


def commands(only_training, scratch):
    """`{name: command}` of everything that is to be run under a setting."""
    notebooks = [
        path
        for path in sorted((ROOT / "nbs").rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    ]
    runs = [path for path in notebooks if path.parent.name == "runs"]
    lessons = [path for path in notebooks if path not in runs]
    found = {
        str(path.relative_to(ROOT)): [
            BIN / "nbdev_test",
            "--path",
            path,
            "--do_print",
            "--n_workers",
            "0",
        ]
        for path in lessons
        if trains(path) or not only_training
    }
    if not only_training:
        for path in runs:
            out = scratch / path.name
            found[str(path.relative_to(ROOT))] = [BIN / "papermill", "--no-progress-bar", path, out]
        found["tests that train"] = [
            BIN / "pytest",
            "-q",
            "-m",
            "trains and not slow",
            "-p",
            "no:cacheprovider",
        ]
    return found


def execute(command, setting):
    """Run one command under a setting: (passed, seconds, the end of its output)."""
    began = time.monotonic()
    done = subprocess.run(
        list(map(str, command)),
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only-training", action="store_true", help="the lessons that train, one thread"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    settings = offered(SETTINGS)
    if options.only_training:
        settings = [setting for setting in settings if setting.threads == 1]
    failed = 0
    passed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for setting in settings:
            print(f"---- {setting.name}", flush=True)
            work = commands(options.only_training, Path(scratch))
            with ThreadPoolExecutor(max(1, options.workers // setting.threads)) as pool:
                results = pool.map(lambda command, s=setting: execute(command, s), work.values())
                for name, (fine, seconds, output) in zip(work, results, strict=True):
                    print(
                        f"{'passed' if fine else 'FAILED':8} {seconds:6.1f} s  {name}", flush=True
                    )
                    if fine:
                        passed += 1
                    else:
                        failed += 1
                        print(output, flush=True)
    print(f"arithmetic: {passed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
