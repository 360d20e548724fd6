"""A run's folder: metrics, checkpoints, damaged files, one process at a time."""

import csv
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from toy_job import STEPS, Net, ToyConfig, at_step, last_weights, state_of, toy, tree

from memdpc.base.errors import ConfigError, Stopped, TrainingError
from memdpc.base.files import atomic_write
from memdpc.training.run import (
    Run,
    _cut_metrics,
    finish,
    log_metrics,
    read_metrics,
    read_results,
    save_checkpoint,
)

pytestmark = pytest.mark.trains


# ---- files


def test_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    with atomic_write(file) as aside:
        aside.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(file) as aside:
        aside.write_text("ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and file.read_text() == "old"
    with pytest.raises(OSError, match="a.json") as raised, atomic_write(file) as aside:
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(file)


def test_metrics_read_back_to_the_bit_and_are_cut(tmp_path):
    run = Run(tmp_path, ToyConfig())
    values = np.random.default_rng(0).standard_normal(50)
    for step, value in enumerate(values, 1):
        log_metrics(run, step, 0, "train", {"loss": value})
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("51,0,train,lo")  # a kill in the middle of a row
    assert [float(row["value"]) for row in read_metrics(tmp_path)] == values.tolist()
    _cut_metrics(run, 20)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert "time" not in rows[0]


def test_last_and_best_are_kept(tmp_path):
    run, _, _ = toy(tmp_path)
    kept = sorted(folder.name for folder in run.checkpoints.iterdir())
    state = state_of(run.checkpoint())
    assert kept == sorted({f"step-{STEPS:08d}", f"step-{state['best'][0]:08d}"})
    rows = [row for row in read_metrics(tmp_path) if row["split"] == "val"]
    losses = {int(row["step"]): float(row["value"]) for row in rows}
    assert set(losses) == {4, 8, 12, 14} and state["best"] == [
        min(losses, key=losses.get),
        min(losses.values()),
    ]
    worse = 10  # the best survives steps that are worse
    run.state["best"] = [4, -1.0]
    (run.checkpoints / "step-00000004").mkdir(exist_ok=True)
    save_checkpoint(run, STEPS + worse, Net(), torch.optim.Adam(Net().parameters()))
    assert sorted(folder.name for folder in run.checkpoints.iterdir()) == [
        "step-00000004",
        f"step-{STEPS + worse:08d}",
    ]


def test_a_run_that_ends_keeps_what_was_measured_in_its_folder(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"probe": {"pretrained": 0.5}, "loss": 9}))
    run, _, values = toy(tmp_path)
    finish(run, values, steps=STEPS)
    assert (
        read_results(tmp_path)["probe"] == {"pretrained": 0.5}
        and read_results(tmp_path)["loss"] == values["loss"]
        and run.finished
    )


def test_a_full_disk_under_numpy_is_one_line(tmp_path):
    """numpy's error has no number and no file name."""
    with (
        pytest.raises(
            TrainingError, match="array.npy cannot be written .*10 requested and 4 written"
        ),
        atomic_write(tmp_path / "array.npy"),
    ):
        raise OSError("10 requested and 4 written")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run, model, _ = toy(tmp_path)
    before = tree(tmp_path)
    with torch.no_grad():
        model.layers[0].weight[0, 0] = float("inf")
    said = f"a weight is NaN or infinite after step 20; last good checkpoint: .*step-{STEPS:08d}"
    with pytest.raises(TrainingError, match=said):
        save_checkpoint(run, 20, model, torch.optim.Adam(model.parameters()))
    assert tree(tmp_path) == before


# ---- what is refused


def test_a_folder_that_holds_a_run(tmp_path):
    toy(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(
        ConfigError, match="holds a run already; go on with --resume True, or choose another out"
    ):
        toy(tmp_path)
    with pytest.raises(ConfigError, match=r"was begun with other settings \(lr: 0.01 -> 0.1\)"):
        toy(tmp_path, resume=True, lr=0.1)
    with pytest.raises(ConfigError, match=r"processes: 1 -> 2"):
        Run(tmp_path, ToyConfig(resume=True), processes=2)
    assert tree(tmp_path) == before
    Run(tmp_path, ToyConfig(out="elsewhere", resume=True, device="cuda", num_workers=7), main=False)
    with pytest.raises(ConfigError, match="no out: name the folder"):
        Run("", ToyConfig())


def work(folder, ready):
    """A run at work: it has opened its folder, and started a process that reads."""
    run = Run(folder, ToyConfig())
    reader = os.fork()
    if reader:
        ready.put(reader)
    time.sleep(60)
    return run


def test_one_process_at_a_time(tmp_path):
    """A job that was started twice.

    Once the first is killed the folder is free, though a reader of its own may live on for a while.
    """
    fork = multiprocessing.get_context("fork")
    first = fork.Process(target=work, args=(tmp_path, ready := fork.Queue()))
    first.start()
    reader = ready.get(timeout=30)
    before = tree(tmp_path)
    try:
        with pytest.raises(
            ConfigError, match=f"{tmp_path}: another process is at work in this folder"
        ):
            Run(tmp_path, ToyConfig(resume=True))
        Run(tmp_path, ToyConfig(resume=True), main=False)
        assert tree(tmp_path) == before
        first.kill()
        first.join()
        os.kill(reader, 0)  # is there still
        assert Run(tmp_path, ToyConfig(resume=True)).state["step"] == 0
    finally:
        first.kill()
        os.kill(reader, signal.SIGKILL)


def test_a_run_without_a_checkpoint_begins_anew(tmp_path):
    Run(tmp_path, ToyConfig(lr=3.0))
    log_metrics(Run(tmp_path, ToyConfig(resume=True)), 3, 0, "train", {"loss": 1})
    assert Run(tmp_path, ToyConfig(resume=True)).state["step"] == 0
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 0.01 and not read_metrics(
        tmp_path
    )


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "noise"])
def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path, name, damage):
    with pytest.raises(Stopped):
        toy(tmp_path, compute=at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    file = tmp_path / "checkpoints/step-00000005" / name
    content = file.read_bytes()
    file.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "noise": os.urandom(len(content))}.get(
            damage, b""
        )
    )
    if damage == "gone":
        file.unlink()
    with pytest.raises(TrainingError) as raised:
        toy(tmp_path, resume=True)
    line = str(raised.value)
    assert "\n" not in line and "step-00000005: damaged (" in line
    assert line.endswith("remove this folder, and --resume True will go on from step-00000004")
    for inner in file.parent.iterdir():
        inner.unlink()
    file.parent.rmdir()
    toy(tmp_path, resume=True)  # and it does
    toy(tmp_path.parent / f"{tmp_path.name}-whole")
    assert last_weights(tmp_path) == last_weights(tmp_path.parent / f"{tmp_path.name}-whole")


@pytest.mark.parametrize(
    "name, content",
    [("metrics.csv", b"\xff\xfe\x00")]
    + [
        (name, content)
        for name in ("metrics.json", "config.json", "checkpoints/step-00000005/state.json")
        for content in (b"", b"null", b"[1]", b'{"a', b"\xff\xfe\x00")
    ],
)
def test_a_damaged_file_of_a_run_is_one_line(tmp_path, name, content):
    with pytest.raises(Stopped):
        toy(tmp_path, compute=at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    (tmp_path / name).write_bytes(content)
    with pytest.raises((TrainingError, ConfigError)) as raised:
        toy(tmp_path, resume=True)
    assert (
        "damaged" in str(raised.value)
        and str(tmp_path) in str(raised.value)
        and "\n" not in str(raised.value)
    )
