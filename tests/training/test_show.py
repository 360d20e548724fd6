"""What `memdpc show` says of a run, of results, of features, and of folders that hold neither."""

import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest

from memdpc.base.config import PRETRAIN_PRESETS, ShowConfig
from memdpc.base.errors import ConfigError, TrainingError
from memdpc.training.show import show


@pytest.fixture
def run(tmp_path):
    """The files of a run that was stopped, as a run writes them."""
    config = replace(PRETRAIN_PRESETS["demo"], root="data/shapes", lr=0.5)
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    rows = "step,epoch,split,name,value\n2,0,train,loss,6.5\n4,0,train,loss,3.25\n"
    (tmp_path / "metrics.csv").write_text(rows)
    for step in (2, 4):
        checkpoint = tmp_path / f"checkpoints/step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(bytes(2_500_000))
        state = {"step": step, "best": [2, 6.5], "values": {}, "processes": 1, "seconds": 9.5}
        (checkpoint / "state.json").write_text(json.dumps(state | {"total_steps": 260}))
    return tmp_path


def shown(folder):
    """The lines of `memdpc show`, with single spaces."""
    return [" ".join(line.split()) for line in show(ShowConfig(str(folder))).splitlines()]


def test_a_run_that_was_stopped(run):
    lines = shown(run)
    assert lines[0] == str(run)
    assert "settings other than those of pretrain demo" in lines
    assert "root data/shapes" in lines and "lr 0.5" in lines and "mem_size 128" not in lines
    assert "step 4 of 260" in lines and "state stopped, or at work" in lines
    assert "best validation loss 6.5 at step 2" in lines
    assert "train loss 3.25 step 4" in lines
    assert "step-00000002 2.5 MB best" in lines and "step-00000004 2.5 MB last" in lines


def test_the_home_folder(run, monkeypatch):
    """A shell leaves the ~ in `--folder=~/run` as it is."""
    monkeypatch.setenv("HOME", str(run.parent))
    assert show(ShowConfig(f"~/{run.name}")) == show(ShowConfig(str(run)))


def test_a_run_that_is_finished_and_its_results(run):
    rows = [{"name": "probe", "accuracy": 0.75}, {"name": "chance", "n": 3}]
    results = {"steps": 260, "loss": 1.5, "probe": {"random": 0.125}, "oops": rows}
    (run / "metrics.json").write_text(json.dumps(results))
    lines = shown(run)
    assert "state finished" in lines and "probe random 0.125" in lines
    place = lines.index("oops")
    assert lines[place + 1 : place + 4] == ["name accuracy n", "probe 0.75", "chance 3"]


def test_features(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/index.csv").write_text("path\n")
    np.save(tmp_path / "train/vectors.npy", np.zeros((5, 7), np.float32))
    assert "vectors.npy 5 x 7 float32" in shown(tmp_path)
    for head in (
        "",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 400},)}}",
        "(" * 99,
    ):
        content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()
        for damaged in (b"noise", content):
            (tmp_path / "train/vectors.npy").write_bytes(damaged)
            with pytest.raises(TrainingError, match="vectors.npy: damaged"):
                shown(tmp_path)
    (tmp_path / "train/vectors.npy").unlink()
    (tmp_path / "train/vectors.npy").mkdir()  # nor is a pipe read, which was waited for
    with pytest.raises(TrainingError, match="vectors.npy: damaged"):
        shown(tmp_path)


def test_a_folder_in_the_home_folder():
    assert ShowConfig("~/run").folder == os.path.expanduser("~/run")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "index.csv").write_text("path\n")
    os.mkfifo(tmp_path / "vectors.npy")
    with pytest.raises(TrainingError, match="vectors.npy: damaged"):
        shown(tmp_path)


def test_names_from_elsewhere_are_safe_to_print(tmp_path):
    """An escape sequence that would clear the reader's screen, and a text without end."""
    (tmp_path / "metrics.json").write_text(json.dumps({"a\x1b[2J": "b" * 500, "c": [1] * 500}))
    text = show(ShowConfig(str(tmp_path)))
    assert "\x1b" not in text and max(map(len, text.splitlines()[1:])) < 100


def test_what_is_no_run(tmp_path):
    for folder in ("", tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError, match="name a run|holds no run"):
            shown(folder)
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(TrainingError, match="damaged"):
        shown(tmp_path)
