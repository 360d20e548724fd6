"""Released checkpoints: files as written, harmful files, broken files, entries that do not fit."""

import io
import os
import pickle
import tarfile
import warnings

import numpy as np
import pytest
import torch

from memdpc.base.errors import CheckpointError, MemdpcError
from memdpc.method.encoder import build_encoder
from memdpc.method.model import Classifier, MemDPC
from memdpc.method.released import load_released, load_released_classifier, read_released

SIZES = dict(img_size=32, num_blocks=3, block_len=2, pred_steps=1)


def to_released(model):
    """The state dict as the released code would have written it: each GRU weight twice."""
    entries = {}
    for name, value in model.state_dict().items():
        part, rest = name.split(".", 1)
        if part in ("forward_gru", "backward_gru"):
            for cell in ("ConvGRUCell_00", "cell_list.0"):
                entries[f"agg_{part[0]}.{cell}.{rest}"] = value.clone()
        elif part == "encoder":
            entries[f"backbone.{rest}"] = value.clone()
        else:
            entries["mb" if rest == "slots" else rest.replace("phi.", "network_pred.")] = (
                value.clone()
            )
    return entries


def model_of(seed=0, **sizes):
    "A model whose every entry is random, running statistics included."
    torch.manual_seed(seed)
    model = MemDPC(**dict(encoder="tiny", mem_size=5) | SIZES | sizes)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
    return model


@pytest.fixture(scope="module")
def state_dict():
    return to_released(model_of())


def save_released(path, entries, zipped=False, **more):
    """A `.pth.tar` as the released code wrote it; `best_acc` names numpy's old module."""
    checkpoint = {
        "epoch": 7,
        "state_dict": entries,
        "best_acc": np.float64(0.123),
        "optimizer": {"state": {}, "param_groups": []},
        "iteration": 99,
    }
    buffer = io.BytesIO()
    torch.save(checkpoint | more, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    assert data.count(b"cnumpy._core.multiarray\nscalar\n") == 1
    path.write_bytes(
        data.replace(b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.multiarray\nscalar\n")
    )
    if zipped:  # the same dict in the newer container, the old name kept
        scalar = np._core.multiarray.scalar

        class OldName(pickle._Pickler):
            def save_global(self, obj, name=None):
                if obj is scalar:
                    self.write(b"cnumpy.core.multiarray\nscalar\n")
                else:
                    super().save_global(obj, name)

            dispatch = pickle._Pickler.dispatch | {type(scalar): save_global}

        old = type("old", (), {"Pickler": OldName, "dumps": pickle.dumps})
        torch.save(checkpoint | more, path, pickle_module=old)
    return path


def refused(path, *words, **sizes):
    "Load, be refused with one line that has the words, and return it."
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line
        with pytest.raises(CheckpointError) as error:
            load_released(path, encoder="tiny", **SIZES | sizes)
    text = str(error.value)
    assert (
        "\n" not in text
        and "\x1b" not in text
        and len(text) < 400
        and all(word in text for word in words)
    ), text
    return text


# ---- files


@pytest.mark.parametrize("zipped", [False, True], ids=["2020", "zip"])
def test_released_file_loads(tmp_path, state_dict, zipped):
    path = save_released(tmp_path / "released.pth.tar", state_dict, zipped)
    with pytest.raises(pickle.UnpicklingError, match="numpy.core.multiarray.scalar"):
        torch.load(path, weights_only=True)
    for source in (path, str(path)):
        model = load_released(source, encoder="tiny", **SIZES)
        assert all(
            torch.equal(value, to_released(model)[name]) for name, value in state_dict.items()
        )
    assert torch.load(path, weights_only=False)["best_acc"] == 0.123 if zipped is False else True


def test_the_allowance_ends_with_the_reading(tmp_path, state_dict):
    path = save_released(tmp_path / "released.pth.tar", state_dict)
    before = set(torch.serialization.get_safe_globals())
    read_released(path)
    assert set(torch.serialization.get_safe_globals()) == before


class Calls:
    "Unpickled, it calls a function."

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


HARM = {
    "open": lambda trace: Calls(io.open, str(trace), "w"),
    "mkdir": lambda trace: Calls(os.mkdir, str(trace)),
    "system": lambda trace: Calls(os.system, f"touch {trace}"),
    "eval": lambda trace: Calls(eval, f'open({str(trace)!r}, "w")'),
    "getattr": lambda trace: Calls(getattr, "text", "upper"),
    "numpy": lambda trace: Calls(np.save, str(trace) + ".npy", 0),
}


@pytest.mark.parametrize("where", ["beside", "inside"])
@pytest.mark.parametrize("kind", HARM)
def test_other_code_is_refused_and_not_run(kind, where, tmp_path, state_dict):
    harm = HARM[kind](tmp_path / "trace")
    more = {"best_loss": harm} if where == "beside" else {"state_dict": state_dict | {"mb": harm}}
    refused(
        save_released(tmp_path / "harm.pth.tar", state_dict, **more),
        "harm.pth.tar",
        "it asks for code",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["harm.pth.tar"]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_are_refused_and_not_run(protocol, tmp_path):
    path = tmp_path / "plain.pth.tar"
    path.write_bytes(
        pickle.dumps({"state_dict": Calls(os.mkdir, str(tmp_path / "trace"))}, protocol)
    )
    refused(path, "plain.pth.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["plain.pth.tar"]


@pytest.mark.parametrize("zipped", [False, True], ids=["2020", "zip"])
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_file(share, zipped, tmp_path, state_dict):
    path = save_released(tmp_path / "cut.pth.tar", state_dict, zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, "cut.pth.tar")


def a_tar(path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"))


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda path: path.write_text("loss 3.14\n" * 100), "not a checkpoint"),
        (lambda path: path.write_bytes(bytes(range(256)) * 8), "not a checkpoint"),
        (lambda path: path.mkdir(), "not a checkpoint"),
        (a_tar, "not a checkpoint"),
        (lambda path: None, "no such checkpoint"),
        (lambda path: torch.save({"epoch": 1}, path), "no state_dict"),
        (lambda path: torch.save({"state_dict": None}, path), "no state_dict"),
        (lambda path: torch.save([torch.zeros(2)], path), "no state_dict"),
        (lambda path: torch.save({"state_dict": {}}, path), "mb: missing"),
        (lambda path: torch.save({"state_dict": {3: torch.zeros(2)}}, path), "3: not a tensor"),
        (lambda path: torch.save({"state_dict": {"mb": [1.0, 2.0]}}, path), "mb: not a tensor"),
        (
            lambda path: torch.save({"state_dict": {"mb": torch.tensor(1.0)}}, path),
            "mb: not a memory",
        ),
        (
            lambda path: torch.save({"state_dict": {"mb": torch.zeros(2, 3, dtype=int)}}, path),
            "mb: not a memory",
        ),
    ],
    ids=[
        "text",
        "bytes",
        "folder",
        "tar",
        "nothing",
        "no weights",
        "null",
        "list",
        "empty",
        "number for a name",
        "list for a tensor",
        "scalar",
        "integers",
    ],
)
def test_no_checkpoint(make, word, tmp_path):
    make(tmp_path / "wrong.pth.tar")
    refused(tmp_path / "wrong.pth.tar", word)


def test_errors_are_the_users():
    assert issubclass(CheckpointError, MemdpcError)


# ---- entries


def test_missing_entries_are_named(state_dict):
    """Every fifth entry is tried. A GRU weight is gone only if both of its copies are."""
    for name in list(state_dict)[::5] + ["mb", "network_pred.0.bias"]:
        copies = {
            name,
            name.replace("cell_list.0", "ConvGRUCell_00"),
            name.replace("ConvGRUCell_00", "cell_list.0"),
        }
        refused(
            {other: value for other, value in state_dict.items() if other not in copies},
            name.replace("ConvGRUCell_00", "cell_list.0"),
            "missing",
        )
        if len(copies) > 1:
            load_released(
                {other: value for other, value in state_dict.items() if other != name},
                encoder="tiny",
                **SIZES,
            )


@pytest.mark.parametrize(
    "name",
    [
        "spare",
        "final_fc.weight",
        "backbone.layer5.0.conv1.weight",
        "module.module.mb",
        "agg_x.cell_list.0.out_gate.bias",
        "",
    ],
)
def test_extra_entry(name, state_dict):
    refused(
        state_dict | {name: torch.zeros(2)},
        name.removeprefix("module.").removeprefix("backbone."),
        "no such entry",
    )


@pytest.mark.parametrize(
    "name", ["mb", "backbone.conv1.weight", "backbone.bn1.running_mean", "network_pred.2.bias"]
)
def test_misshapen_entry(name, state_dict):
    value = state_dict[name]
    refused(
        state_dict | {name: torch.cat([value, value], -1)},
        name,
        "shape",
    )


@pytest.mark.parametrize(
    "sizes",
    [dict(mem_size=4), dict(encoder="resnet18"), dict(bidirectional=False), dict(mem_size=0)],
    ids=str,
)
def test_sizes_that_contradict_the_entries(sizes, state_dict):
    with pytest.raises(CheckpointError):
        load_released(state_dict, **dict(encoder="tiny") | SIZES | sizes)


@pytest.mark.parametrize("direction", ["agg_f", "agg_b"])
@pytest.mark.parametrize(
    "change", [lambda v: v + 1e-6, lambda v: v.flatten()], ids=["value", "shape"]
)
def test_differing_copies(direction, change, state_dict):
    name = f"{direction}.cell_list.0.update_gate.weight"
    refused(state_dict | {name: change(state_dict[name])}, name, "copies differ")


def test_prefix_of_data_parallel(state_dict):
    plain, prefixed = (
        load_released(source, encoder="tiny", **SIZES).state_dict()
        for source in (state_dict, {"module." + name: value for name, value in state_dict.items()})
    )
    assert all(torch.equal(plain[name], prefixed[name]) for name in plain)


def test_the_source_stays_its_own(state_dict):
    model = load_released(state_dict, encoder="tiny", **SIZES)
    before = state_dict["mb"].clone()
    with torch.no_grad():
        model.predictor.slots.add_(1)
    assert torch.equal(state_dict["mb"], before)


# ---- networks and sizes


@pytest.mark.parametrize(
    "encoder, mem_size, bidirectional",
    [("resnet18", 1, True), ("resnet34", 9, True), ("resnet50", 3, True), ("resnet18", 40, False)],
)
def test_networks_and_sizes_are_read_off(encoder, mem_size, bidirectional):
    model = (
        model_of(encoder=encoder, mem_size=mem_size, bidirectional=bidirectional, num_blocks=2)
        .double()
        .eval()
    )
    loaded = load_released(to_released(model), **SIZES | dict(num_blocks=2)).eval()
    x = torch.randn(
        1, 2, 3, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        out, expected = loaded(x), model(x)
    assert torch.equal(out.loss, expected.loss) and torch.equal(
        out.past_to_future.predicted, expected.past_to_future.predicted
    )
    assert (
        len(loaded.predictor.slots) == mem_size
        and (loaded.backward_gru is not None) == bidirectional
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype, state_dict):
    source = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in state_dict.items()
    }
    loaded = load_released(source, encoder="tiny", **SIZES).state_dict()
    assert {value.dtype for value in loaded.values()} == {dtype, torch.int64}
    assert torch.equal(loaded["predictor.slots"], source["mb"])


# ---- a finetuned classifier, computed by hand


def classifier_entries(classes=7):
    """A released classifier's state dict; its batch-norm statistics are random as well."""
    torch.manual_seed(1)
    sizes = dict(encoder="tiny", img_size=64, num_blocks=4, mem_size=0)
    classifier = Classifier(MemDPC(**sizes), classes).double()
    for name, value in classifier.state_dict().items():
        if name.endswith(("mean", "var", ".bias", "norm.weight")):
            value.uniform_(0.1, 1)
    backbone = {
        n: v for n, v in to_released(classifier).items() if n.startswith(("backbone", "agg"))
    }
    norm = {f"final_bn.{n}": value for n, value in classifier.norm.state_dict().items()}
    linear = {f"final_fc.1.{n}": value for n, value in classifier.linear.state_dict().items()}
    return backbone | norm | linear


def last_state(entries, gru, blocks):  # float64 [N, D]: one grid cell
    """A GRU's state after all blocks, written out."""

    def layer(gate, x):
        name = f"{gru}.ConvGRUCell_00.{gate}_gate"
        return entries[f"{name}.weight"].numpy()[:, :, 0, 0] @ x + entries[f"{name}.bias"].numpy()

    state = np.zeros(blocks.shape[1])
    for x in blocks:
        both = np.concatenate([x, state])
        reset = 1 / (1 + np.exp(-layer("reset", both)))
        update = 1 / (1 + np.exp(-layer("update", both)))
        candidate = np.tanh(layer("out", np.concatenate([x, state * reset])))
        state = state * (1 - update) + candidate * update
    return state


@torch.no_grad()
def logits_by_hand(entries, clip, relu_first):  # float64 [1, N, 3, T, H, W] -> [classes]
    """The released classifier, a cell at a time; only the encoder is the library's."""
    encoder = build_encoder("tiny").double().eval()
    prefix = "backbone."
    own = {name.removeprefix(prefix): v for name, v in entries.items() if name.startswith(prefix)}
    encoder.load_state_dict(own)
    z = encoder(clip[0]).numpy()  # [N, D, T', h, w], signed
    z = np.maximum(z, 0).mean(2) if relu_first else np.maximum(z.mean(2), 0)  # [N, D, h, w]
    cells = [z[:, :, i, j] for i, j in np.ndindex(z.shape[2:])]  # each [N, D]
    ahead = np.mean([last_state(entries, "agg_f", cell) for cell in cells], 0)
    back = np.mean([last_state(entries, "agg_b", cell[::-1]) for cell in cells], 0)
    norm = {name: entries[f"final_bn.{name}"].numpy() for name in ("running_mean", "running_var")}
    x = np.concatenate([ahead, back]) - norm["running_mean"]
    x = x / np.sqrt(norm["running_var"] + 1e-5)
    x = x * entries["final_bn.weight"].numpy() + entries["final_bn.bias"].numpy()
    return entries["final_fc.1.weight"].numpy() @ x + entries["final_fc.1.bias"].numpy()


def test_classifier_by_hand():
    """The ReLU comes before the average over time, unlike in pretraining."""
    entries = classifier_entries()
    clip = torch.randn(1, 4, 3, 5, 64, 64, dtype=torch.float64)
    classifier = load_released_classifier(entries, encoder="tiny").eval()
    with torch.no_grad():
        logits = classifier(clip)[0].numpy()
    assert logits.shape == (7,)
    assert np.abs(logits - logits_by_hand(entries, clip, relu_first=True)).max() < 1e-9
    assert np.abs(logits - logits_by_hand(entries, clip, relu_first=False)).max() > 1e-3
