"""Fidelity: numbers computed with the released implementation, in float64, from weights and an input that a rule regenerates."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from memdpc.method.released import load_released, rename

pytestmark = pytest.mark.trains

GOLDEN = np.load(Path(__file__).parent / "golden" / "resnet18_64.npz")
CONFIG = json.loads(str(GOLDEN["config"]))
KEYS = json.loads(str(GOLDEN["keys"]))


def fill(name, shape):
    "The weight of a released entry: a function of its name and shape alone."
    name = name.replace("ConvGRUCell_00", "cell_list.0")
    v = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    leaf = name.split(".")[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if leaf == "running_var":
        return 1 + 0.5 * np.abs(v)
    if leaf in ("running_mean", "bias"):
        return 0.1 * v
    if name == "mb":
        return v
    if len(shape) == 1:
        return 1 + 0.1 * v
    return v * math.sqrt(1 / np.prod(shape[1:]))


def released_state(dtype):
    state = {name: torch.from_numpy(np.asarray(fill(name, shape))) for name, shape in KEYS.items()}
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in state.items()
    }


def golden_model(dtype):
    sizes = {k: CONFIG[k] for k in ("img_size", "num_blocks", "block_len", "pred_steps")}
    shape = (
        CONFIG["batch"],
        CONFIG["num_blocks"],
        3,
        CONFIG["block_len"],
        CONFIG["img_size"],
        CONFIG["img_size"],
    )
    x = torch.from_numpy(np.random.RandomState(20).standard_normal(shape)).to(dtype)
    return load_released(released_state(dtype), **sizes), x


def assert_relative(actual, expected, tolerance, what):
    "The largest deviation, relative to the largest expected entry."
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected)
    assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
    worst = np.abs(actual - expected).max() / np.abs(expected).max().clip(1e-300)
    assert worst <= tolerance, f"{what}: relative deviation {worst:.2e}"


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_forward(dtype, tolerance):
    model, x = golden_model(dtype)
    with torch.no_grad():
        out = model.eval()(x)
    ahead, back = out.past_to_future, out.future_to_past
    for what, actual in dict(
        eval_loss=out.loss,
        eval_loss_forward=ahead.loss,
        eval_loss_backward=back.loss,
        eval_top1_forward=ahead.top1,
        eval_top5_forward=ahead.top5,
        eval_top1_backward=back.top1,
        eval_top5_backward=back.top5,
        z=out.features,
        context=ahead.context[:, None],
        address_forward=ahead.address,
        address_backward=back.address,
        zhat_forward=ahead.predicted,
        zhat_backward=back.predicted,
    ).items():
        assert_relative(actual, GOLDEN[what], tolerance, what)
    with torch.no_grad():
        assert tuple(model.encoder(x.flatten(0, 1)).shape) == tuple(GOLDEN["backbone_shape"])


def test_gradient_norms():
    model, x = golden_model(torch.float64)
    model.eval()(x).loss.backward()
    ours = dict(model.named_parameters())
    expected = json.loads(str(GOLDEN["eval_grad_norm"]))
    assert {rename(name) for name in expected} == set(ours)
    for name, norm in expected.items():
        assert_relative(ours[rename(name)].grad.norm().item(), norm, 1e-9, name)


def test_three_training_steps():
    model, x = golden_model(torch.float64)
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    losses = []
    for _ in range(3):
        loss = model(x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert_relative(losses, GOLDEN["train_losses"], 1e-9, "train_losses")
