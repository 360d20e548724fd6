"""The run notebooks through papermill, as an experimenter starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "runs" / "pretrain.ipynb"
SMALL = ["-p", "batch_size", "8", "-p", "num_workers", "0", "-p", "device", "cpu"]


def papermill(folder, *words, notebook=NOTEBOOK, cwd=None):
    """Run it in an empty folder; `(finished process, executed notebook's path)`."""
    target = folder / "out.ipynb"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            "--no-progress-bar",
            str(notebook),
            str(target),
            *map(str, words),
        ],
        capture_output=True,
        text=True,
        cwd=cwd or folder,
        timeout=900,
        env={name: value for name, value in os.environ.items() if name != "MPLBACKEND"},
    )  # pictures, as a user's run has them
    return done, target


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    from memdpc.data.shapes import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", videos_per_class=8)


@pytest.mark.slow
def test_a_run_and_its_resumption(tmp_path, shapes):
    words = ["-p", "root", shapes, "-p", "out", tmp_path / "run", "-p", "epochs", 1, *SMALL]
    done, target = papermill(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for measure in ("probe", "retrieval_r1"):
        for name in (
            "random",
            "pretrained",
            "random, batch-norm recalibrated",
            "mean image",
            "single frame",
        ):
            assert 0 <= metrics[measure][name] <= 1
    assert metrics["chance"] == 1 / 8
    assert "image/png" in target.read_text()
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    done, _ = papermill(tmp_path, *words, "-p", "resume", "true")  # a finished run stays as it is
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before


@pytest.mark.slow
def test_without_parameters(tmp_path):
    done, target = papermill(tmp_path)
    assert done.returncode == 0, done.stderr
    # The trial leaves nothing behind where it was started.
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "benchmark"])
def test_twice_in_one_kernel(name):
    """2026-11: variables of later cells were taken for parameters when the cells ran again."""
    notebook = nbformat.read(NOTEBOOK.with_name(f"{name}.ipynb"), as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = cells + [nbformat.from_dict(dict(cell)) for cell in cells]
    where = {"metadata": {"path": str(NOTEBOOK.parents[2])}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()


@pytest.mark.slow
def test_the_study_computes_a_slice_again(tmp_path):
    """The baselines of the committed results come out as the file has them: it asserts that."""
    done, _ = papermill(
        tmp_path, notebook=NOTEBOOK.with_name("study.ipynb"), cwd=NOTEBOOK.parents[2]
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_dpc_in_one_direction(tmp_path, shapes):
    done, _ = papermill(
        tmp_path,
        "-p",
        "root",
        shapes,
        "-p",
        "out",
        "run",
        "-p",
        "mem_size",
        0,
        "-p",
        "bidirectional",
        "False",
        "-p",
        "max_steps",
        2,
        "-p",
        "compare",
        "False",
        *SMALL,
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["mem_size"], config["bidirectional"], config["max_steps"]) == (0, False, 2)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["epoch", "3"], "'epoch' is not a parameter of this job"),
        (["epochs", "1.5"], "epochs"),
        (["mem_size", "-1"], "mem_size must lie in"),
    ],
)
def test_a_wrong_parameter_ends_the_notebook(tmp_path, wrong, said):
    done, _ = papermill(tmp_path, "-p", *wrong)
    assert done.returncode != 0
    assert f"ConfigError: {said}" in done.stderr
