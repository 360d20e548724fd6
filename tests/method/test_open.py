"""Encoders, predictors and losses of one's own: by object and by name, saved, loaded, and wrong."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from memdpc.base.errors import CheckpointError, ConfigError
from memdpc.method.encoder import ENCODERS, build_encoder
from memdpc.method.loss import LOSSES, ContrastiveLoss
from memdpc.method.memory import PREDICTORS, DirectPredictor, Memory
from memdpc.method.model import Classifier, MemDPC

SIZES = dict(img_size=32, num_blocks=4, block_len=2, pred_steps=2, mem_size=6)


class Patches(nn.Module):
    """An encoder of one convolution: a feature for every patch of 8 pixels."""

    dim = 10

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 10, (1, 8, 8), (1, 8, 8))

    def grid(self, img_size):
        return img_size // 8, img_size // 8

    def forward(self, x):
        return self.conv(x)


class Shift(nn.Module):
    """A predictor without memory: the context, moved."""

    def __init__(self, dim):
        super().__init__()
        self.by = nn.Parameter(torch.randn(1, dim, 1, 1))

    def forward(self, context):
        return None, context + self.by


def squared_error(predicted, target):
    error = F.mse_loss(predicted, target)
    return {"loss": error, "rmse": error.detach().sqrt()}


def clips(batch=2, size=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, 3, 2, size, size, generator=generator)


@pytest.fixture
def registered():
    """Names of one's own, taken out of the registries again."""
    ENCODERS.register("patches", Patches)
    PREDICTORS.register("shift", lambda dim, num_slots, address_gain: Shift(dim))
    LOSSES.register("squared", squared_error)
    yield dict(encoder="patches", predictor="shift", loss="squared")
    for registry, name in ((ENCODERS, "patches"), (PREDICTORS, "shift"), (LOSSES, "squared")):
        del registry._values[name]


def assert_one_line(error, *words):
    text = str(error.value)
    assert text and "\n" not in text, text
    for word in words:
        assert word in text, text


# ---- parts that fit


def check_works(model):
    out = model(clips())
    assert model.grid == (4, 4)
    assert out.features.shape == (2, 4, 10, 4, 4)
    assert out.past_to_future.address is None
    assert set(out.past_to_future.measures) == {"rmse"}
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.predict_next(out.features).shape == (2, 3, 10, 4, 4)
    assert Classifier(model, 5)(clips()).shape == (2, 5)


def test_objects():
    model = MemDPC(Patches(), **SIZES, predictor=Shift(10), loss=squared_error)
    check_works(model)
    assert model.sizes["encoder"] == "object:Patches"
    assert model.sizes["predictor"] == "object:Shift"
    assert model.sizes["loss"] == "object:squared_error"


def test_names(registered, tmp_path):
    model = MemDPC(**SIZES, **registered).eval()
    check_works(model)
    model.save_pretrained(tmp_path)
    again = MemDPC.from_pretrained(tmp_path)
    assert again.sizes == model.sizes == MemDPC(**model.sizes).sizes
    with torch.no_grad():
        assert torch.equal(again(clips()).loss, model(clips()).loss)


def test_an_encoder_is_used_as_it_is():
    encoder = build_encoder("tiny")
    assert MemDPC(encoder, **SIZES).encoder is encoder


@pytest.mark.parametrize("mem_size, predictor", [(0, "memory"), (0, "direct"), (6, "direct")])
def test_direct_prediction(mem_size, predictor):
    model = MemDPC("tiny", **SIZES | {"mem_size": mem_size}, predictor=predictor)
    assert isinstance(model.predictor, DirectPredictor)
    assert isinstance(MemDPC("tiny", **SIZES).predictor, Memory)


def test_temperature():
    """A lower temperature is the same as longer predictions; 1 is the paper's, to the bit."""
    torch.manual_seed(0)
    predicted, target = torch.randn(2, 2, 3, 4, 2, 2)
    plain = LOSSES["contrastive"](predicted, target)
    one = ContrastiveLoss(1.0)(predicted, target)
    cold = ContrastiveLoss(0.5)(predicted, target)
    assert set(plain) == {"loss", "top1", "top5"}
    assert torch.equal(plain["loss"], one["loss"])
    torch.testing.assert_close(cold["loss"], ContrastiveLoss()(2 * predicted, target)["loss"])
    assert torch.equal(cold["top1"], plain["top1"])


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_bad_temperature(temperature):
    with pytest.raises(ConfigError, match="temperature"):
        ContrastiveLoss(temperature)


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, predicted, target):
        return ContrastiveLoss()(self.scale * predicted, target)


def test_a_loss_may_learn(tmp_path):
    model = MemDPC("tiny", **SIZES, loss=Scaled())
    model(clips()).loss.backward()
    assert model.loss.scale.grad is not None
    model.save_pretrained(tmp_path)
    assert "loss.scale" in MemDPC.from_pretrained(tmp_path, loss=Scaled()).state_dict()


def test_one_graph():
    """The shape checks break no compiled graph."""
    torch._dynamo.reset()
    compiled = torch.compile(MemDPC("tiny", **SIZES).eval(), backend="eager", fullgraph=True)
    out = compiled(clips())
    out.loss.backward()
    assert 0 <= out.past_to_future.top1 <= 1


# ---- saving and loading objects


def test_an_object_is_handed_in_again(tmp_path):
    torch.manual_seed(0)
    model = MemDPC(Patches(), **SIZES).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["encoder"] == "object:Patches"
    again = MemDPC.from_pretrained(tmp_path, encoder=Patches())
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(clips()).loss, model(clips()).loss)


@pytest.mark.parametrize("kind", ["encoder", "predictor", "loss"])
def test_loading_asks_for_an_object(kind, tmp_path):
    part = {"encoder": Patches(), "predictor": Shift(64), "loss": squared_error}[kind]
    model = MemDPC(**dict(encoder="tiny") | SIZES | {kind: part})
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as error:
        MemDPC.from_pretrained(tmp_path)
    assert_one_line(error, str(tmp_path), kind, f"{kind}=...", "register")
    with pytest.raises(CheckpointError) as error:
        MemDPC(**model.sizes)
    assert_one_line(error, kind)


def test_another_object_does_not_fit(tmp_path):
    MemDPC(Patches(), **SIZES).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as error:
        MemDPC.from_pretrained(tmp_path, encoder="tiny")
    assert_one_line(error, "encoder.")


def test_a_name_that_is_no_longer_known(registered, tmp_path):
    MemDPC(**SIZES, **registered).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder": "forgotten"}))
    with pytest.raises(ConfigError) as error:
        MemDPC.from_pretrained(tmp_path)
    assert_one_line(error, "forgotten", "resnet18", "--plugin")


# ---- parts that do not fit


def broken(**changes):
    """A class like `Patches` with some of its attributes changed."""
    return type("Broken", (Patches,), changes)()


WRONG = {
    "name": (dict(encoder="resnet19"), ("resnet19", "resnet18", "--plugin")),
    "predictor's name": (dict(predictor="oracle"), ("oracle", "memory", "--plugin")),
    "loss's name": (dict(loss="hinge"), ("hinge", "contrastive", "--plugin")),
    "no module": (dict(encoder=3), ("encoder", "nn.Module", "int")),
    "a class": (dict(encoder=Patches), ("encoder", "nn.Module")),
    "no dim": (dict(encoder=nn.Identity()), ("Identity", "dim")),
    "dim of text": (dict(encoder=broken(dim="10")), ("dim",)),
    "no grid": (dict(encoder=broken(grid=None)), ("grid",)),
    "grid of one": (dict(encoder=broken(grid=lambda self, size: (size,))), ("grid",)),
    "grid of a number": (dict(encoder=broken(grid=lambda self, size: 4)), ("grid",)),
    "grid of nothing": (dict(encoder=broken(grid=lambda self, size: (0, 0))), ("grid",)),
    "predictor": (dict(predictor=squared_error), ("predictor", "nn.Module")),
    "loss": (dict(loss=0.5), ("loss", "callable")),
}


@pytest.mark.parametrize("kind", WRONG)
def test_refused_at_once(kind):
    parts, words = WRONG[kind]
    with pytest.raises(ConfigError) as error:
        MemDPC(**dict(encoder="tiny") | SIZES | parts)
    assert_one_line(error, *words)


class Odd(nn.Module):
    """A predictor that returns whatever a function makes of the context."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, context):
        return self.answer(context)


FORWARD = {
    "rank": (dict(encoder=broken(forward=lambda s, x: s.conv(x).mean(2))), ("[8, 10, 4, 4]",)),
    "vectors": (dict(encoder=broken(forward=lambda s, x: x.mean((2, 3, 4)))), ("[8, 3]",)),
    "channels": (dict(encoder=broken(dim=12)), ("12", "[8, 10, 2, 4, 4]")),
    "no tensor": (dict(encoder=broken(forward=lambda s, x: (s.conv(x),))), ("tensor", "tuple")),
    "grid": (dict(encoder=broken(grid=lambda s, size: (2, 2))), ("[4, 4]", "[2, 2]")),
    "no pair": (dict(predictor=Odd(lambda c: c)), ("pair",)),
    "triple": (dict(predictor=Odd(lambda c: (c, c, c))), ("pair",)),
    "width": (dict(predictor=Odd(lambda c: (None, c[:, :3]))), ("[2, 3, 4, 4]", "[2, 10, 4, 4]")),
    "no prediction": (dict(predictor=Odd(lambda c: (c, None))), ("predictor", "NoneType")),
    "address": (dict(predictor=Odd(lambda c: (c.mean((2, 3)), c))), ("address", "[2, 10]")),
    "address of text": (dict(predictor=Odd(lambda c: ("slot", c))), ("address", "str")),
    "bare loss": (dict(loss=F.mse_loss), ("loss", "dict")),
    "no loss": (dict(loss=lambda p, t: {"error": (p - t).mean()}), ("'loss'",)),
    "vector": (dict(loss=lambda p, t: {"loss": (p - t).mean((0, 1))}), ("'loss'", "[10, 4, 4]")),
    "number": (dict(loss=lambda p, t: {"loss": 0.5}), ("'loss'", "float")),
    "measure": (dict(loss=lambda p, t: {"loss": p.mean(), "x": p}), ("'x'", "scalar")),
    "number for a name": (dict(loss=lambda p, t: {"loss": p.mean(), 3: p.mean()}), ("3", "name")),
}


@pytest.mark.parametrize("kind", FORWARD)
def test_refused_on_the_first_clips(kind):
    parts, words = FORWARD[kind]
    model = MemDPC(**dict(encoder=Patches()) | SIZES | parts)
    with pytest.raises(ConfigError) as error:
        model(clips())
    assert_one_line(error, *words)


def test_the_classifier_checks_its_encoder_too():
    model = MemDPC(broken(forward=lambda self, x: self.conv(x).mean(2)), **SIZES)
    with pytest.raises(ConfigError) as error:
        Classifier(model, 3)(clips())
    assert_one_line(error, "[8, 10, 4, 4]")


# ---- what an import loads


def test_the_method_imports_little():
    """`memdpc.method` needs neither a decoder of videos nor pictures nor statistics."""
    code = (
        "import sys, memdpc.method.model, memdpc.method.released;"
        "print([m for m in ('av', 'matplotlib', 'sklearn', 'seaborn', 'accelerate')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
