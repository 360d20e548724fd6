"""A toy job for the tests of training: four numbers to add up, in a small net with dropout."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from memdpc.training.loop import Schedule, StepBatches, learning_rate, train
from memdpc.training.processes import make_accelerator, make_loader
from memdpc.training.run import Run, restore

STEPS = 14
PER_EPOCH = 4


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


def no_fault(index):
    pass


class Numbers:
    """Items that are pure functions of (epoch, index), as clips are.

    `fault(index)` is called in the process that reads.
    """

    def __init__(self, fault: Callable[[int], None] = no_fault):
        self.fault = fault

    def __len__(self):
        return 16

    def __getitem__(self, key):
        self.fault(key[1])
        return {"x": np.random.default_rng(key).standard_normal(4, dtype=np.float32), "broken": 0}


def compute(model, batch):
    return {"loss": (model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()}


def evaluate(model):
    held_out = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    return {"loss": compute(model, {"x": held_out})["loss"].item()}


def toy(
    out,
    resume=False,
    compute=compute,
    precision="no",
    fault=no_fault,
    num_workers=0,
    lr=0.01,
):
    """One job from config to final values, as `pretrain` does it: (run, model, values)."""
    accelerator = make_accelerator("cpu", precision)
    run = Run(out, ToyConfig(str(out), resume, lr=lr))
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    start = restore(run, model, optimizer)
    loader = make_loader(Numbers(fault), StepBatches(16, 4, STEPS, start), num_workers)
    schedule = Schedule(PER_EPOCH, STEPS, start, log_every=3, checkpoint_every=5)

    def rate(step):
        return learning_rate(step, lr, PER_EPOCH, STEPS, milestones=(2,))

    values = train(run, accelerator, model, optimizer, loader, compute, rate, schedule, evaluate)
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


def last_weights(out: Path) -> bytes:
    return (max((out / "checkpoints").glob("step-*")) / "model.safetensors").read_bytes()


def state_of(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "state.json").read_text())


def tree(folder: Path) -> dict:
    """Every file in a folder with its time of change and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
