"""The loop: order, schedule, checkpoints, resume, faults; in this process. What needs processes that die is in test_kills.py."""

import csv
import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from memdpc.base.config import PRETRAIN_PRESETS
from memdpc.base.errors import ConfigError, DatasetError, Stopped, TrainingError
from memdpc.base.files import atomic_write
from memdpc.data.video import write_video
from memdpc.training import loop as training
from memdpc.training.loop import StepBatches, learning_rate, train
from memdpc.training.pretrain import pretrain
from memdpc.training.processes import Interruption, make_accelerator, make_loader
from memdpc.training.run import (
    Run,
    _cut_metrics,
    finish,
    log_metrics,
    read_metrics,
    read_results,
    restore,
    save_checkpoint,
)

pytestmark = pytest.mark.trains

STEPS, PER_EPOCH = 14, 4


# ---- a toy job: ten numbers to fit, in a small net with dropout


class Net(nn.Module, PyTorchModelHubMixin):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def forward(self, x):
        return self.layers(x)


@dataclass(frozen=True)
class ToyConfig:
    out: str = ""
    resume: bool = False
    device: str = "cpu"
    num_workers: int = 0
    lr: float = 0.01


class Numbers:
    """Items that are pure functions of (epoch, index), as clips are; `fault(index)` is called in the process that reads."""

    def __init__(self, fault=lambda index: None):
        self.fault = fault

    def __len__(self):
        return 16

    def __getitem__(self, key):
        self.fault(key[1])
        return {"x": np.random.default_rng(key).standard_normal(4, dtype=np.float32), "broken": 0}


def compute(model, batch):
    return {"loss": (model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()}


def toy(
    out,
    resume=False,
    compute=compute,
    total=STEPS,
    precision="no",
    fault=lambda index: None,
    num_workers=0,
    validate=True,
    lr=0.01,
):
    """One job from config to final values, as `pretrain` does it: (run, model, values)."""
    accelerator = make_accelerator("cpu", precision)
    run = Run(out, ToyConfig(str(out), resume, lr=lr))
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    start = restore(run, model, optimizer)
    batches = StepBatches(16, 4, total, start)
    held = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def evaluate(model):
        return {"loss": compute(model, {"x": held})["loss"].item()}

    values = train(
        run,
        accelerator,
        model,
        optimizer,
        make_loader(Numbers(fault), batches, num_workers),
        compute,
        lambda step: learning_rate(step, lr, PER_EPOCH, total, milestones=(2,)),
        per_epoch=PER_EPOCH,
        total_steps=total,
        start=start,
        evaluate=evaluate if validate else None,
        log_every=3,
        checkpoint_every=5,
    )
    return run, model, values


def at_step(number, act):
    """A `compute` that acts once, in its `number`-th call in training."""
    calls = []

    def acting(model, batch):
        if model.training:
            calls.append(1)
            if len(calls) == number:
                act()
        return compute(model, batch)

    return acting


def last_weights(out):
    return (max((out / "checkpoints").glob("step-*")) / "model.safetensors").read_bytes()


def tree(folder):
    """Every file below a folder with its time of change and content."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- order and schedule


def test_processes_see_disjoint_clips_and_an_epoch_sees_each_once():
    ranks = [list(StepBatches(20, 3, 6, rank=rank, world_size=2, seed=5)) for rank in (0, 1)]
    for epoch in (0, 1):
        seen = [
            key
            for batches in ranks
            for batch in batches[3 * epoch : 3 * epoch + 3]
            for key in batch
        ]
        assert {key[0] for key in seen} == {epoch}
        assert len(seen) == len(set(seen)) == 18


def test_a_step_has_its_clips_wherever_the_run_began():
    whole = list(StepBatches(20, 3, 30, seed=5))
    for start in (0, 1, 6, 7, 29, 30):
        assert list(StepBatches(20, 3, 30, start, seed=5)) == whole[start:]
    assert list(StepBatches(20, 3, 30, seed=6)) != whole


def test_too_few_videos_for_a_batch():
    with pytest.raises(ConfigError, match="5 training videos do not fill a batch of 6"):
        StepBatches(5, 3, 1, world_size=2)


def test_every_milestone_is_applied():
    paper = [
        learning_rate(epoch * 10, 1e-3, 10, 5000, milestones=(300, 400)) for epoch in range(500)
    ]
    assert np.allclose(paper, [1e-3] * 300 + [1e-4] * 100 + [1e-5] * 100, rtol=1e-12)
    assert (
        learning_rate(2999, 1e-3, 10, 5000, (300, 400)) == 1e-3
    )  # per iteration: not a step sooner
    assert learning_rate(30, 1.0, 10, 40, (3,)) == pytest.approx(0.1)


def test_warm_up_and_cosine():
    rates = [learning_rate(step, 1.0, 10, 100, warmup_steps=20, cosine=True) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 20)
    assert int(np.argmax(rates)) == 19 and np.all(np.diff(rates[19:]) < 0)
    assert learning_rate(50, 1.0, 10, 100, cosine=True) == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3


def test_the_optimiser_gets_the_schedule(tmp_path):
    toy(tmp_path)
    logged = [float(row["value"]) for row in read_metrics(tmp_path) if row["name"] == "lr"]
    assert logged == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.001]
    )  # steps 3, 6, 9, 12, 14; milestone after 8 steps


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
    run, *_ = toy(tmp_path, total=STEPS)
    kept = sorted(folder.name for folder in run.checkpoints.iterdir())
    state = json.loads((run.checkpoint() / "state.json").read_text())
    assert kept == sorted({f"step-{STEPS:08d}", f"step-{state['best'][0]:08d}"})
    losses = {
        int(row["step"]): float(row["value"])
        for row in read_metrics(tmp_path)
        if row["split"] == "val"
    }
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


# ---- stopping and going on


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_stopped_and_resumed_is_undisturbed(tmp_path, signum, step):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _, _, values = toy(whole)
    with pytest.raises(Stopped) as stopped:
        toy(broken, compute=at_step(step, lambda: os.kill(os.getpid(), signum)))
    assert (stopped.value.step, stopped.value.status) == (step, 128 + signum)
    run, _, again = toy(broken, resume=True)
    assert values == again
    assert last_weights(whole) == last_weights(broken)
    assert (whole / "metrics.csv").read_bytes() == (broken / "metrics.csv").read_bytes()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_killed_between_the_last_checkpoint_and_the_end(tmp_path):
    _, _, values = toy(tmp_path)
    before = last_weights(tmp_path)
    (tmp_path / "checkpoints/.step-00000099.part").mkdir()
    (tmp_path / "checkpoints/step-00000003").mkdir()  # superseded, and not yet dropped
    run, _, again = toy(tmp_path, resume=True)
    assert values == again and before == last_weights(tmp_path)
    assert all(
        int(folder.name[5:]) in (STEPS, run.state["best"][0])
        for folder in run.checkpoints.iterdir()
    )


def test_a_second_signal_acts_as_ever():
    with Interruption() as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher passing the same wish on
        assert asked.signum == signal.SIGINT
        asked.since -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_bf16_on_the_cpu(tmp_path):
    kinds = []

    def noting(model, batch):
        kinds.append(
            torch.is_autocast_enabled("cpu") or nn.Module.__call__(model, batch["x"]).dtype
        )
        return compute(model, batch)

    _, model, values = toy(tmp_path / "half", precision="bf16")
    _, exact, other = toy(tmp_path / "full")
    weights = [net.state_dict()["layers.0.weight"] for net in (model, exact)]
    assert weights[0].dtype == torch.float32 and 0 < (weights[0] - weights[1]).abs().max() < 0.1
    assert values["loss"] == pytest.approx(other["loss"], rel=0.1)


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
    with pytest.raises(ConfigError, match="name the run's folder"):
        Run("", ToyConfig())


def work(folder, ready):
    """A run at work: it has opened its folder, and started a process that reads."""
    run, reader = Run(folder, ToyConfig()), os.fork()
    if reader:
        ready.put(reader)
    time.sleep(60)
    return run


def test_one_process_at_a_time(tmp_path):
    """A job that was started twice. Once the first is killed the folder is free, though a process of its own may live on for a while."""
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
    with pytest.raises(
        TrainingError, match="array.npy cannot be written .*10 requested and 4 written"
    ):
        with atomic_write(tmp_path / "array.npy"):
            raise OSError("10 requested and 4 written")


def test_a_loss_that_is_no_number(tmp_path):
    def nan_at_seven(model, batch):
        nan_at_seven.calls += model.training
        return {
            "loss": compute(model, batch)["loss"] * (float("nan") if nan_at_seven.calls == 7 else 1)
        }

    nan_at_seven.calls = 0
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step 7; last good checkpoint: .*step-00000005$"
    ):
        toy(tmp_path, compute=nan_at_seven)
    toy(tmp_path, resume=True)
    toy(tmp_path / "whole")
    assert last_weights(tmp_path) == last_weights(tmp_path / "whole")
    nan_at_seven.calls = 6
    with pytest.raises(TrainingError, match="at step 1; last good checkpoint: none"):
        toy(tmp_path / "early", compute=nan_at_seven)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    run, model, _ = toy(tmp_path)
    before = tree(tmp_path)
    with torch.no_grad():
        model.layers[0].weight[0, 0] = float("inf")
    with pytest.raises(
        TrainingError,
        match=rf"a weight is no number after step 20; last good checkpoint: .*step-{STEPS:08d}",
    ):
        save_checkpoint(run, 20, model, torch.optim.Adam(model.parameters()))
    assert tree(tmp_path) == before


def test_a_reader_that_is_killed_ends_the_run_with_a_line(tmp_path):
    def die(index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        TrainingError,
        match="a process that reads videos died .*try fewer num_workers; last good checkpoint: none",
    ):
        toy(tmp_path, fault=die, num_workers=2)


def test_an_error_of_a_reader_is_one_line(tmp_path):
    def fail(index):
        raise DatasetError("the/root: a hundred videos in a row cannot be read any more")

    with pytest.raises(TrainingError) as raised:
        toy(tmp_path, fault=fail, num_workers=1)
    assert str(raised.value) == "the/root: a hundred videos in a row cannot be read any more"


def read_under_fire(outcome):
    """Loaders one after the other, while somebody tells all processes to end, every few milliseconds; the main process has a mind of its own."""
    os.setpgid(0, 0)
    main = os.getpid()
    signal.signal(signal.SIGTERM, lambda *note: None)
    if not os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while os.getppid() == main:
            os.killpg(main, signal.SIGTERM) or time.sleep(0.005)
        os._exit(0)
    outcome.put(
        sum(
            len(batch["x"])
            for _ in range(6)
            for batch in make_loader(Numbers(), [[(0, 0), (0, 1)], [(0, 2)]], 2)
        )
    )


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="macOS")
def test_readers_outlive_a_signal_that_comes_as_they_are_born():
    """So a queue ends its jobs: SIGTERM to each process. What counts is what the main process does."""
    fork = multiprocessing.get_context("fork")
    main = fork.Process(target=read_under_fire, args=(outcome := fork.Queue(),))
    main.start()
    try:
        assert outcome.get(timeout=20) == 6 * 3
    finally:
        main.kill()


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there(device):
    if (
        device == "cuda"
        and torch.cuda.is_available()
        or device == "mps"
        and torch.backends.mps.is_available()
    ):
        pytest.skip("it is there")
    with pytest.raises(ConfigError, match=device):
        make_accelerator(device)


# ---- pretrain

SMALL = replace(
    PRETRAIN_PRESETS["demo"],
    dataset="folder",
    encoder="tiny",
    img_size=32,
    num_blocks=3,
    block_len=3,
    pred_steps=1,
    mem_size=8,
    batch_size=4,
    epochs=2,
    max_steps=7,
    log_every=2,
    checkpoint_every=4,
    val_fraction=0.2,
    num_workers=0,
    device="cpu",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of twenty small videos, and an index of its own."""
    folder = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0)
    for number in range(20):
        write_video(
            folder / f"{number:02d}.mp4",
            noise.integers(0, 255, (10, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2),
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMDPC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield str(folder)


def test_pretrain_finishes_and_a_finished_run_is_left_alone(videos, tmp_path):
    config = replace(SMALL, root=videos, out=str(tmp_path / "run"))
    result = pretrain(config)
    assert (
        result["steps"] == 7
        and result["videos"] == 16
        and result["device"] == "cpu"
        and result["seconds"] > 0
    )
    assert {"version", "seed", "loss", "top1", "best_loss", "best_step"} <= result.keys()
    before = tree(tmp_path)
    again = pretrain(replace(config, resume=True, num_workers=1))
    assert (
        again == json.loads((tmp_path / "run/metrics.json").read_text())
        and tree(tmp_path) == before
    )
    assert {row["name"] for row in read_metrics(tmp_path / "run")} == {"loss", "top1", "top5", "lr"}


def test_pretrain_in_bf16_and_one_direction(videos, tmp_path):
    config = replace(
        SMALL,
        root=videos,
        out=str(tmp_path / "run"),
        precision="bf16",
        bidirectional=False,
        max_steps=2,
        val_fraction=0,
    )
    with torch.backends.mkldnn.flags(
        enabled=False
    ):  # oneDNN's bf16 3-D convolutions give NaN gradients now and then on some CPUs
        result = pretrain(config)
    assert (
        result["precision"] == "bf16" and np.isfinite(result["loss"]) and "best_loss" not in result
    )


def test_pretrain_without_a_memory_or_with_one_video_left(videos, tmp_path):
    assert (
        pretrain(replace(SMALL, root=videos, out=str(tmp_path / "dpc"), mem_size=0, max_steps=1))[
            "steps"
        ]
        == 1
    )
    with pytest.raises(
        ConfigError, match="16 training videos do not fill a batch of 17: lower batch_size"
    ):
        pretrain(replace(SMALL, root=videos, out=str(tmp_path / "big"), batch_size=17))


def test_the_loop_costs_little(tmp_path):
    """Everything but data, forward, backward and the optimiser's step of a network of a few weights: a ratio, since a busy machine slows both."""
    accelerator, run, model = make_accelerator("cpu", "no"), Run(tmp_path, ToyConfig()), Net()
    batch, rounds = {"x": torch.randn(4, 4), "broken": torch.zeros(4)}, 300
    optimizer = torch.optim.SGD(model.parameters())

    def plain():
        optimizer.zero_grad(set_to_none=True)
        compute(model.train(), batch)["loss"].backward()
        optimizer.step()

    plain()
    began = time.process_time()
    for _ in range(rounds):
        plain()
    middle = time.process_time()
    train(
        run,
        accelerator,
        model,
        optimizer,
        [batch] * rounds,
        compute,
        lambda step: 0.0,
        per_epoch=10 * rounds,
        total_steps=rounds,
        start=0,
    )
    assert (time.process_time() - middle) - (middle - began) < 30 * (middle - began)
