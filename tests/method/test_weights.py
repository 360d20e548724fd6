"""Files of weights: kinds taken or refused by what they are, sizes that lie, bad numbers."""

import json
import os
import resource
import subprocess
import sys
import zipfile

import hostile_weights
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_released import to_released

from memdpc.base.errors import ConfigError, MemdpcError
from memdpc.method.kinds import NoPredictor
from memdpc.method.model import Classifier, MemDPC
from memdpc.method.released import load_released, load_released_classifier
from memdpc.method.saving import checkpoint_folder
from memdpc.method.weights import read_header, read_pickle, read_tensors

SIZES = dict(encoder="tiny", img_size=32, num_blocks=4, block_len=3, pred_steps=1, mem_size=6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a small network."""
    folder = tmp_path_factory.mktemp("saved")
    MemDPC(**SIZES).save_pretrained(folder)
    return folder


def changed(saved, folder, config=None, entries=None):
    """A copy of a saved network with some of its config, or its weights, changed."""
    folder.mkdir()
    old = json.loads((saved / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(old | (config or {})))
    kept = load_file(saved / "model.safetensors")
    save_file(kept | (entries or {}), folder / "model.safetensors")
    return folder


def refusal(function, *args, **options):
    """The one line with which a call is refused."""
    with pytest.raises(MemdpcError) as error:
        function(*args, **options)
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


def header_of(path, length=None):
    """A safetensors file with this header (an object, or bytes) and no tensors."""

    def write(header):
        data = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(data) if length is None else length
        path.write_bytes(size.to_bytes(8, "little") + data)
        return path

    return write


# ---- which kind of network


def test_a_run_is_its_last_checkpoint(saved, tmp_path):
    """2026-11: `from_pretrained` of a run's folder looked for weights in the folder itself."""
    for step in (3, 20):
        changed(saved, tmp_path / "part")
        (tmp_path / "run/checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "part").rename(tmp_path / f"run/checkpoints/step-{step:08d}")
    assert checkpoint_folder(tmp_path / "run").name == "step-00000020"
    assert isinstance(MemDPC.from_pretrained(tmp_path / "run"), MemDPC)
    (tmp_path / "run/metrics.json").write_text('{"tested_step": 3}')
    assert checkpoint_folder(tmp_path / "run").name == "step-00000003"
    for tested in (True, None, 77, -3, 10**400):  # true was step 1
        (tmp_path / "run/metrics.json").write_text(json.dumps({"tested_step": tested}))
        assert "no checkpoint of the tested step" in refusal(checkpoint_folder, tmp_path / "run")


@pytest.mark.parametrize(
    "name", ["nowhere", "./a/b", "a/b/c", "/a/b", "~/nowhere/here", "tests/b/"]
)
def test_a_path_is_not_asked_for_at_the_hub(name, tmp_path, monkeypatch):
    """2026-11: `runs/typo` was asked for at a hub, five times in 23 seconds."""
    monkeypatch.chdir(tmp_path)
    assert "no such folder" in refusal(MemDPC.from_pretrained, name)
    (tmp_path / "runs").mkdir()
    assert refusal(MemDPC.from_pretrained, "runs/typo") == "runs/typo: no such folder"


def test_what_is_no_checkpoint_is_named(saved, tmp_path):
    weights = saved / "model.safetensors"
    assert f"name {saved}" in refusal(MemDPC.from_pretrained, weights)
    assert "not a checkpoint's folder" in refusal(MemDPC.from_pretrained, saved / "config.json")
    for name, what in (("metrics.json", "results"), ("origin.json", "features")):
        (tmp_path / name).write_text("{}")
        assert what in refusal(MemDPC.from_pretrained, tmp_path)


def released_classifier():
    """A released classifier's state dict, and the classifier."""
    model = MemDPC(**SIZES | {"mem_size": 0})
    classifier = Classifier(model, 5)
    entries = to_released(model)
    backbone = {name: value for name, value in entries.items() if "network_pred" not in name}
    head = {f"final_bn.{name}": value for name, value in classifier.norm.state_dict().items()}
    for name, value in classifier.linear.state_dict().items():
        head[f"final_fc.1.{name}"] = value
    return backbone | head, classifier


def test_a_released_classifier_gives_its_network():
    entries, classifier = released_classifier()
    sizes = {name: SIZES[name] for name in ("encoder", "img_size", "num_blocks", "pred_steps")}
    network = load_released(entries, **sizes).eval()
    assert isinstance(network.predictor, NoPredictor)
    for name, value in classifier.encoder.state_dict().items():
        assert torch.equal(network.encoder.state_dict()[name], value)
    x = torch.zeros(1, 4, 3, 3, 32, 32)
    assert network.encode(x).shape == (1, 4, 64, 1, 1)
    assert "no predictor" in refusal(network, x)
    without_head = {name: value for name, value in entries.items() if "final" not in name}
    assert refusal(load_released, without_head).startswith("mb: missing")


def test_a_network_is_no_classifier():
    entries = to_released(MemDPC(**SIZES))
    assert "this is a pretrained network" in refusal(load_released_classifier, entries)


# ---- sizes that lie


@pytest.mark.parametrize(
    "config, error",
    [
        ({"mem_size": 10**7}, "predictor.slots: shape [6, 64] in the checkpoint, [10000000, 64]"),
        ({"mem_size": 10**12}, "mem_size must lie in"),
        ({"num_blocks": 10**9}, "num_blocks must lie in"),
        ({"img_size": 10**6}, "img_size must lie in"),
        ({"img_size": 32.5}, "img_size must be a whole number"),
        ({"block_len": -3}, "block_len must lie in"),
        ({"img_size": 4096, "num_blocks": 1000, "block_len": 1000}, "takes 50331.65 GB"),
        ({"mem_size": True}, "mem_size must be a whole number"),
        ({"dropout": 10**400}, "dropout must be a number"),
        ({"encoder": {"a": []}}, "encoder must be a text"),
    ],
    ids=str,
)
def test_a_config_that_claims_too_much(config, error, saved, tmp_path):
    """2026-11: such sizes asked for any memory, or ended in a traceback."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert error in refusal(MemDPC.from_pretrained, changed(saved, tmp_path / "x", config))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 300_000  # kB


@pytest.mark.parametrize(
    "header, error",
    [
        ({"a": {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4 * 10**11]}}, "cut short"),
        ({"a": {"dtype": "F32", "shape": [10**9] * 9, "data_offsets": [0, 4]}}, "cut short"),
        ({"a": {"dtype": "F32", "shape": [2**62] * 300, "data_offsets": [0, 4]}}, "a: damaged"),
        ({"a": {"dtype": "F32", "shape": [2**62] * 300_000, "data_offsets": [0, 4]}}, "a: damaged"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "a: damaged"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "a: damaged"),
        ({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, "F8_E4M3"),
        ({"a": 3}, "a: damaged"),
        ([], "damaged header"),
        (b"[" * 100_000, "damaged header"),
        (b"\xff\xfe", "damaged header"),
    ],
    ids=[
        "bytes",
        "product",
        "digits",
        "hours",
        "negative",
        "bool",
        "type",
        "number",
        "list",
        "deep",
        "not-UTF-8",
    ],
)
def test_a_header_that_lies(header, error, tmp_path):
    path = header_of(tmp_path / "model.safetensors")(header)
    assert error in refusal(read_header, path)
    assert error in refusal(read_tensors, path)


def test_the_length_of_a_header_lies(tmp_path):
    for length in (2**63, 10**9, 3):
        path = header_of(tmp_path / "model.safetensors", length)({})
        assert "no weights that can be read" in refusal(read_header, path)


def test_a_hundred_gigabytes_of_holes_are_not_read(saved, tmp_path):
    """A sparse file has any size: its header is compared with the network before it is read."""
    folder = changed(saved, tmp_path / "x")
    header = {"a": {"dtype": "F32", "shape": [25 * 10**9], "data_offsets": [0, 10**11]}}
    path = header_of(folder / "model.safetensors")(header)
    os.truncate(path, path.stat().st_size + 10**11)
    assert "missing in the checkpoint" in refusal(MemDPC.from_pretrained, folder)


def test_tensors_larger_than_their_file(tmp_path):
    """2026-11: two equal tensors of 1e11 numbers, stride 0, were compared for hours."""
    path = tmp_path / "x.pth.tar"
    gru = "reset_gate.weight"
    big = torch.zeros(1).expand(10**11)
    entries = {f"agg_f.cell_list.0.{gru}": big}
    entries[f"agg_f.ConvGRUCell_00.{gru}"] = torch.zeros(1).expand(10**11)
    for zipped in (True, False):
        torch.save({"state_dict": entries}, path, _use_new_zipfile_serialization=zipped)
        assert "its tensors claim" in refusal(load_released, path)
        assert "its tensors claim" in refusal(read_pickle, path)


def test_entries_that_unfold(tmp_path):
    path = tmp_path / "x.pth.tar"
    torch.save({"state_dict": {"mb": torch.zeros(10**6)}}, path)
    packed = tmp_path / "packed.pth.tar"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "not a checkpoint that can be loaded safely" in refusal(read_pickle, packed)


class Call:
    """What a pickle stores as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        lambda: Call(bytearray, 2 * 10**9),
        lambda: Call(
            torch._utils._rebuild_device_tensor_from_cpu_tensor,
            torch.zeros(1).expand(25 * 10**7),
            torch.float64,
            "cpu",
            False,
        ),
    ],
    ids=["bytes", "tensor"],
)
def test_a_call_that_takes_memory(call, zipped, tmp_path):
    """2026-11: torch lets a pickle of 500 bytes ask for 2 GB of zeros, and writes them."""
    path = tmp_path / "x.pth.tar"
    torch.save({"state_dict": call()}, path, _use_new_zipfile_serialization=zipped)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "not a checkpoint that can be loaded safely" in refusal(read_pickle, path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 300_000  # kB


@pytest.mark.parametrize(
    "tensor",
    [
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.zeros(3, 3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
    ],
    ids=["meta", "sparse", "quantized"],
)
def test_a_tensor_that_is_no_array(tensor, tmp_path):
    torch.save({"state_dict": {"mb": tensor()}}, tmp_path / "x.pth.tar")
    refusal(load_released, tmp_path / "x.pth.tar")


def test_containers_that_hold_themselves(tmp_path):
    around = []
    around.append(around)
    torch.save(around, tmp_path / "x.pt")
    assert isinstance(read_pickle(tmp_path / "x.pt"), list)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(saved, tmp_path):
    for name in ("model.safetensors", "x.pth.tar"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    assert "not even a file" in refusal(MemDPC.from_pretrained, tmp_path)
    assert "not even a file" in refusal(load_released, tmp_path / "x.pth.tar")
    assert "not even a file" in refusal(read_pickle, tmp_path)


# ---- numbers and types


def entry(saved, name, change):
    return {name: change(load_file(saved / "model.safetensors")[name])}


@pytest.mark.parametrize(
    "name, change, error",
    [
        ("encoder.conv1.weight", lambda v: v.index_fill(0, torch.tensor(1), torch.nan), "NaN"),
        ("predictor.slots", lambda v: v / 0, "NaN or infinite"),
        ("encoder.bn1.running_var", lambda v: v - 2, "negative variance"),
        ("encoder.conv1.weight", lambda v: v.int(), "torch.int32 in the checkpoint"),
        ("encoder.conv1.weight", lambda v: v > 0, "torch.bool in the checkpoint"),
        ("encoder.bn1.num_batches_tracked", lambda v: v.half(), "torch.float16 in the checkpoint"),
    ],
)
def test_bad_numbers_are_named(name, change, error, saved, tmp_path):
    folder = changed(saved, tmp_path / "x", entries=entry(saved, name, change))
    text = refusal(MemDPC.from_pretrained, folder)
    assert name in text and error in text


def test_bad_numbers_in_a_released_file_have_its_names():
    entries = to_released(MemDPC(**SIZES))
    sizes = {name: SIZES[name] for name in ("encoder", "img_size", "num_blocks", "pred_steps")}
    bad = {"mb": "mb", "backbone.conv1.weight": "backbone.conv1.weight"}
    bad["agg_b.ConvGRUCell_00.out_gate.bias"] = "agg_b.ConvGRUCell_00.out_gate.bias"
    for name, named in bad.items():
        spoilt = entries | {name: entries[name] * torch.nan}
        text = refusal(load_released, spoilt, **sizes)
        assert text == f"{named}: NaN or infinite in the checkpoint"


def test_several_dtypes_become_the_wider_one(saved, tmp_path):
    half = entry(saved, "encoder.conv1.weight", lambda v: v.half())
    model = MemDPC.from_pretrained(changed(saved, tmp_path / "x", entries=half))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    both = {
        name: value.half() if name.startswith("encoder") else value.bfloat16()
        for name, value in load_file(saved / "model.safetensors").items()
        if value.is_floating_point()
    }
    model = MemDPC.from_pretrained(changed(saved, tmp_path / "y", entries=both))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_an_unknown_part_is_named_with_its_folder(saved, tmp_path):
    folder = changed(saved, tmp_path / "x", {"encoder": "forgotten"})
    with pytest.raises(ConfigError, match="forgotten") as error:
        MemDPC.from_pretrained(folder)
    assert str(folder) in str(error.value)


def test_a_huge_clip_is_refused_at_once():
    with pytest.raises(ConfigError, match="a clip of 1000 blocks"):
        MemDPC("tiny", img_size=4096, num_blocks=1000, block_len=1000)


# ---- anything


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits memory as Linux does")
def test_hostile_files_in_little_memory():
    """1500 hostile files in a process that may have 2 GB more than it begins with."""
    script = os.path.join(os.path.dirname(__file__), "hostile_weights.py")
    done = subprocess.run([sys.executable, script, "300"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


@pytest.mark.parametrize("kind", ["config", "header", "safetensors", "zip", "pickle"])
def test_hostile_files(kind, tmp_path_factory):
    hostile_weights.run(kind, 15, tmp_path_factory.mktemp("hostile"))
