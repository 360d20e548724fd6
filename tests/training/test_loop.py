"""The loop: order, schedule, stopping and going on, losses that are NaN; in this process."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn
from toy_job import STEPS, Net, ToyConfig, at_step, compute, last_weights, toy

from memdpc.base.errors import ConfigError, Stopped, TrainingError
from memdpc.training.loop import Schedule, StepBatches, learning_rate, train
from memdpc.training.processes import make_accelerator
from memdpc.training.run import Run, read_metrics

pytestmark = pytest.mark.trains


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


def test_when_a_run_does_what():
    """Epochs of 4 steps, 14 steps in all: a checkpoint after each validation as well."""
    schedule = Schedule(4, 14, eval_every=2, log_every=3, checkpoint_every=5)
    steps = range(1, 15)
    assert [step for step in steps if schedule.logs(step)] == [3, 6, 9, 12, 14]
    assert [step for step in steps if schedule.validates(step)] == [8, 14]
    assert [step for step in steps if schedule.saves(step)] == [5, 8, 10, 14]


# ---- stopping and going on


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_stopped_and_resumed_is_undisturbed(tmp_path, signum, step):
    """SIGUSR1, with which Slurm warns, counts as SIGTERM."""
    whole = tmp_path / "whole"
    broken = tmp_path / "broken"
    _, _, values = toy(whole)
    with pytest.raises(Stopped) as stopped:
        toy(broken, compute=at_step(step, lambda: os.kill(os.getpid(), signum)))
    assert stopped.value.step == step
    assert stopped.value.status == (130 if signum == signal.SIGINT else 143)
    run, _, again = toy(broken, resume=True)
    assert values == again
    assert last_weights(whole) == last_weights(broken)
    assert (whole / "metrics.csv").read_bytes() == (broken / "metrics.csv").read_bytes()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_killed_between_the_last_checkpoint_and_the_end(tmp_path):
    _, _, values = toy(tmp_path)
    before = last_weights(tmp_path)
    (tmp_path / "checkpoints/.0123456789abcdef.part").mkdir()
    (tmp_path / "checkpoints/step-00000003").mkdir()  # superseded, and not yet dropped
    run, _, again = toy(tmp_path, resume=True)
    assert values == again and before == last_weights(tmp_path)
    assert all(
        int(folder.name[5:]) in (STEPS, run.state["best"][0])
        for folder in run.checkpoints.iterdir()
    )


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


# ---- losses that are NaN


def test_a_loss_that_is_nan(tmp_path):
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


def test_the_loop_costs_little(tmp_path):
    """All but data, forward, backward and the optimizer's step, of a network of a few weights.

    A ratio, since a busy machine slows both.
    """
    accelerator = make_accelerator("cpu", "no")
    run = Run(tmp_path, ToyConfig())
    model = Net()
    batch = {"x": torch.randn(4, 4), "broken": torch.zeros(4)}
    rounds = 300
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
        Schedule(10 * rounds, rounds),
    )
    plain_loop = middle - began
    whole_loop = time.process_time() - middle
    assert whole_loop - plain_loop < 30 * plain_loop
