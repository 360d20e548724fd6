"""The model under sizes, types and mistakes that its lesson does not go through."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from memdpc.base.errors import CheckpointError
from memdpc.method.model import Classifier, MemDPC

pytestmark = pytest.mark.trains

DEFAULTS = dict(
    bidirectional=True, dropout=0.1, address_gain=0.1, predictor="memory", loss="contrastive"
)
SMALL = dict(encoder="tiny", img_size=32, num_blocks=4, block_len=2, pred_steps=2, mem_size=6)


def build(seed=0, **sizes):
    "A small model in eval mode."
    torch.manual_seed(seed)
    return MemDPC(**SMALL | sizes).eval()


def clips(model, batch=2, seed=1, size=None):
    "Noise of the model's sizes: [B, N, 3, T, H, W]."
    size = size or model.img_size
    return torch.randn(
        batch,
        model.num_blocks,
        3,
        model.block_len,
        size,
        size,
        generator=torch.Generator().manual_seed(seed),
    )


def assert_one_line(error, *words):
    "A message for a user: one line that names what is wrong."
    text = str(error.value)
    assert text and "\n" not in text and all(str(word) in text for word in words), text


# ---- shapes


def check_shapes(model, batch, size):
    "Every output of every direction has the shape that its docstring promises."
    x = clips(model, batch, size=size)
    with torch.no_grad():
        out = model(x)
        expected = model.predict_next(out.features)
    blocks, steps, dim, side = (
        model.num_blocks,
        model.pred_steps,
        model.encoder.dim,
        math.ceil(size / 32),
    )
    assert out.features.shape == (batch, blocks, dim, side, side)
    assert expected.shape == (batch, blocks - 1, dim, side, side)
    assert (out.future_to_past is None) == (model.backward_gru is None)
    slots = getattr(model.predictor, "slots", None)
    for direction in filter(None, (out.past_to_future, out.future_to_past)):
        assert direction.loss.shape == direction.top1.shape == direction.top5.shape == ()
        assert 0 <= direction.top1 <= direction.top5 <= 1 and direction.loss.isfinite()
        assert direction.context.shape == (batch, dim, side, side)
        assert (
            direction.predicted.shape == direction.target.shape == (batch, steps, dim, side, side)
        )
        if slots is None:
            assert direction.address is None
        else:
            assert direction.address.shape == (batch, steps, len(slots), side, side)


@given(
    data=st.data(),
    batch=st.integers(1, 3),
    blocks=st.integers(2, 5),
    block_len=st.integers(1, 5),
    size=st.integers(1, 70),
    mem_size=st.integers(0, 5),
    bidirectional=st.booleans(),
)
@settings(max_examples=25)
def test_shapes(data, batch, blocks, block_len, size, mem_size, bidirectional):
    steps = data.draw(st.integers(1, blocks - 1), label="pred_steps")
    check_shapes(
        build(
            img_size=size,
            num_blocks=blocks,
            block_len=block_len,
            pred_steps=steps,
            mem_size=mem_size,
            bidirectional=bidirectional,
        ),
        batch,
        size,
    )


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50"])
def test_shapes_of_networks(encoder):
    check_shapes(build(encoder=encoder, num_blocks=2, pred_steps=1), batch=1, size=32)


@pytest.mark.parametrize("size", [40, 130])
def test_odd_image_sizes(size):
    check_shapes(build(img_size=size, num_blocks=2, pred_steps=1), batch=1, size=size)


# ---- what must not matter


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("mem_size", [0, 6])
def test_permuting_the_batch_permutes_the_outputs(batch, mem_size):
    model, order = (
        build(mem_size=mem_size),
        torch.randperm(batch, generator=torch.Generator().manual_seed(2)),
    )
    x = clips(model, batch)
    with torch.no_grad():
        out, permuted = model(x), model(x[order])
    assert_close(permuted.loss, out.loss)
    assert_close(permuted.features, out.features[order])
    for ours, theirs in (
        (out.past_to_future, permuted.past_to_future),
        (out.future_to_past, permuted.future_to_past),
    ):
        for name in ("context", "predicted", "target") + (("address",) if mem_size else ()):
            assert_close(getattr(theirs, name), getattr(ours, name)[order], msg=name)


def test_a_clip_alone_gives_what_it_gives_in_a_batch():
    model = build()
    x = clips(model, 4)
    with torch.no_grad():
        assert_close(model(x[2:3]).past_to_future.predicted, model(x).past_to_future.predicted[2:3])


@given(block=st.integers(1, 4), mem_size=st.sampled_from([0, 6]))
@settings(max_examples=8)
def test_predict_next_sees_no_later_block(block, mem_size):
    model = build(mem_size=mem_size)
    x = clips(model)
    other = x.clone()
    other[:, block - 1 :] = clips(model, seed=9)[
        :, block - 1 :
    ]  # block `block` (from 1) and all later ones
    with torch.no_grad():
        a, b = (model.predict_next(model.encode(v)) for v in (x, other))
    assert torch.equal(a[:, : block - 1], b[:, : block - 1])
    assert block == 4 or not torch.equal(a[:, block - 1 :], b[:, block - 1 :])


def test_eval_leaves_no_chance_and_train_does():
    model = build()
    x = clips(model)
    with torch.no_grad():
        assert torch.equal(model(x).loss, model(x).loss)
        assert not torch.equal(model.train()(x).loss, model(x).loss)


# ---- types


def test_bf16_autocast_gives_a_float32_loss():
    model = build()
    x = clips(model)
    with torch.no_grad():
        exact = model(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rough = model(x)
    assert_close(
        rough.features.float(),
        exact.features,
        atol=0.05 * exact.features.abs().max().item(),
        rtol=0,
    )
    with torch.autocast("cpu", torch.bfloat16):
        out = model.train()(x)
    assert out.loss.dtype == out.past_to_future.loss.dtype == torch.float32
    assert out.past_to_future.top1.dtype == torch.float32
    out.loss.backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


def test_float64():
    model = build()
    x = clips(model)
    with torch.no_grad():
        single, double = model(x), model.double()(x.double())
    assert (
        double.loss.dtype
        == double.features.dtype
        == double.past_to_future.address.dtype
        == double.future_to_past.top5.dtype
        == torch.float64
    )
    assert_close(double.loss, single.loss.double(), rtol=1e-4, atol=1e-4)


def test_every_dropout_is_a_module():
    """With every nn.Dropout set to zero, train mode is deterministic: none hides in a function."""
    model = build(dropout=0.5)
    classifier = Classifier(model, 3).train()
    x = clips(model)
    found = [
        m
        for part in (model.train(), classifier)
        for m in part.modules()
        if isinstance(m, nn.Dropout)
    ]
    assert len(set(found)) == 3  # one for each GRU, one of the classifier
    for module in found:
        module.p = 0.0
    with torch.no_grad():
        assert torch.equal(model(x).loss, model(x).loss) and torch.equal(
            classifier(x), classifier(x)
        )
    assert not any(
        isinstance(m, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout))
        for m in classifier.modules()
    )


# ---- the classifier


@pytest.mark.parametrize("bidirectional", [True, False])
def test_classifier(bidirectional):
    model = build(bidirectional=bidirectional)
    classifier = Classifier(model, 5).eval()
    assert classifier(clips(model, 3)).shape == (3, 5)
    assert classifier.contexts(clips(model, 3)).shape == (3, 64 * (1 + bidirectional))
    classifier(clips(model, 3)).sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())  # shared, not copied


# ---- mistakes


@pytest.mark.parametrize(
    "sizes, words",
    [
        (dict(img_size=0), ("img_size", 0)),
        (dict(img_size=-128), ("img_size", -128)),
        (dict(block_len=0), ("block_len", 0)),
        (dict(num_blocks=0), ("pred_steps", 0)),
        (dict(pred_steps=0), ("pred_steps", 0)),
        (dict(pred_steps=4), ("pred_steps", 4)),
        (dict(pred_steps=-1), ("pred_steps", -1)),
        (dict(mem_size=-1), ("mem_size", -1)),
        (dict(dropout=1.5), ("dropout", 1.5)),
        (dict(dropout=-0.1), ("dropout", -0.1)),
    ],
    ids=str,
)
def test_bad_sizes(sizes, words):
    with pytest.raises(ValueError) as error:
        MemDPC(**SMALL | sizes)
    assert_one_line(error, *words)


@pytest.mark.parametrize(
    "shape, words",
    [
        ((4, 3, 2, 32, 32), ("[4, 3, 2, 32, 32]",)),  # no batch
        (
            (1, 4, 2, 3, 32, 32),
            ("[1, 4, 2, 3, 32, 32]",),
        ),  # frames before channels, as Algorithm 1 prints it
        ((1, 2, 3, 2, 32, 32), ("2 blocks", "too few")),  # nothing would be seen
    ],
    ids=str,
)
def test_bad_clips(shape, words):
    with pytest.raises(ValueError) as error:
        build()(torch.zeros(shape))
    assert_one_line(error, *words)


# ---- saving and loading


@pytest.mark.parametrize(
    "sizes",
    [
        dict(),
        dict(mem_size=0),
        dict(bidirectional=False, dropout=0.3, address_gain=8.0),
        dict(num_blocks=3, pred_steps=1),
    ],
    ids=str,
)
def test_round_trip(sizes, tmp_path, capsys):
    model = build(**sizes)
    model.save_pretrained(tmp_path)
    again = MemDPC.from_pretrained(tmp_path)
    x = clips(model)
    with torch.no_grad():
        assert torch.equal(again(x).loss, model(x).loss)
    assert json.loads((tmp_path / "config.json").read_text()) == DEFAULTS | SMALL | sizes
    assert not again.training and capsys.readouterr().out == ""


def test_round_trip_keeps_the_dtype(tmp_path):
    model = build().double()
    model.save_pretrained(tmp_path)
    again = MemDPC.from_pretrained(tmp_path)
    assert all(
        torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items()
    )
    assert (
        again.predictor.slots.dtype == torch.float64
        and again.encoder.bn1.num_batches_tracked.dtype == torch.int64
    )


def damage_config(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return damage


def damage_weights(change):
    def damage(folder):
        path = folder / "model.safetensors"
        entries = load_file(path)
        change(entries)
        save_file(entries, path)

    return damage


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "damage, words",
    [
        (damage_config(mem_size=7), ("predictor.", "[6", "[7")),
        (damage_config(encoder="resnet18"), ("encoder.conv1.weight", "[16", "[64", "shape")),
        (damage_config(bidirectional=False), ("backward_gru.", "no such entry")),
        (damage_config(mem_size=0), ("predictor.",)),
        (damage_config(pred_steps=9), ("pred_steps", 9)),
        (damage_config(num_blocks="eight"), ("num_blocks", "eight")),
        (
            damage_weights(lambda entries: entries.pop("predictor.slots")),
            ("predictor.slots", "missing"),
        ),
        (
            damage_weights(lambda entries: entries.update(spare=torch.zeros(1))),
            ("spare", "no such entry"),
        ),
        (damage_weights(lambda entries: entries.clear()), ("missing",)),
        (cut, ("model.safetensors",)),
        (
            lambda folder: (folder / "model.safetensors").write_text("not weights"),
            ("model.safetensors",),
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), ("model.safetensors",)),
        (lambda folder: (folder / "config.json").unlink(), ("config.json",)),
        (lambda folder: (folder / "config.json").write_text("{"), ("config.json", "damaged")),
        (lambda folder: (folder / "config.json").write_text("[]"), ("config.json", "damaged")),
    ],
    ids=[
        "mem_size",
        "encoder",
        "direction",
        "no memory",
        "steps",
        "type",
        "missing",
        "extra",
        "empty",
        "cut",
        "text",
        "no weights",
        "no config",
        "not json",
        "a list",
    ],
)
def test_folder_that_does_not_fit(damage, words, tmp_path):
    build().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError) as error:
        MemDPC.from_pretrained(tmp_path)
    assert_one_line(error, *words)


@pytest.mark.parametrize("name", ["nowhere", "no/where", "./not/a/folder", "/not/a/folder"])
def test_folder_that_is_not_there(name):
    with pytest.raises(CheckpointError) as error:
        MemDPC.from_pretrained(name)
    assert_one_line(error, name)
    if name[0] in "./":
        assert "no such folder" in str(error.value)  # and no hub is asked
