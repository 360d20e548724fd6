"""Hostile files of weights, drawn by hypothesis: refused with one line, or loaded.

`python hostile_weights.py N` draws N of each kind in a process that may have 2 GB of memory more
than it begins with, and prints how many were refused, and the most memory that was used.
"""

import json
import resource
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memdpc.base.errors import MemdpcError
from memdpc.method.model import MemDPC
from memdpc.method.released import load_released
from memdpc.method.weights import read_header, read_pickle, read_tensors

SIZES = dict(encoder="tiny", img_size=32, num_blocks=4, block_len=3, pred_steps=1, mem_size=6)
KEYS = (*MemDPC(**SIZES).sizes, "classes", "head_dropout", "frozen", "other")

numbers = st.one_of(
    st.integers(-3, 40),
    st.integers(),
    st.sampled_from([10**6, 10**7, 10**9, 10**12, 2**63, 10**400]),
    st.floats(),
)
plain = st.none() | st.booleans() | numbers | st.text(max_size=9) | st.sampled_from(["tiny", "8"])
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
entries = st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets", "x"]),
    st.sampled_from(["F32", "F16", "F8_E4M3", "I64", ""]) | st.lists(numbers, max_size=4) | values,
)
headers = st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), entries | values)


def patches(most):
    """What to change in some bytes: places (as shares of the length) and new bytes."""
    place = st.floats(0, 1, exclude_max=True)
    return st.lists(st.tuples(place, st.binary(min_size=1, max_size=4)), min_size=1, max_size=most)


def patched(data, changes):
    """The bytes with these patches."""
    data = bytearray(data)
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    return bytes(data)


def counted(function, *args):
    """1 where the call is refused in one line, 0 where it is not; any other error goes on."""
    try:
        function(*args)
    except MemdpcError as error:
        assert "\n" not in str(error)
        return 1
    return 0


def released_bytes(folder, zipped):
    """A small file of `torch.save`."""
    path = folder / "small.pth.tar"
    tensors = {f"w{number}": torch.randn(4, 3) for number in range(3)}
    torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


def hostile_config(folder):
    """A saved network whose config holds anything."""
    MemDPC(**SIZES).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())

    def load(changes):
        (folder / "config.json").write_text(json.dumps(config | changes))
        return counted(MemDPC.from_pretrained, folder)

    return st.dictionaries(st.sampled_from(KEYS), values, min_size=1), load


def hostile_header(folder):
    """A safetensors file with any header."""
    path = folder / "model.safetensors"

    def load(case):
        header, length, rest = case
        data = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(data) if length is None else length
        path.write_bytes(size.to_bytes(8, "little") + data + rest)
        return counted(read_header, path) & counted(read_tensors, path)

    length = st.none() | st.integers(0, 2**64 - 1)
    return st.tuples(headers | st.binary(max_size=99), length, st.binary(max_size=64)), load


def hostile_safetensors(folder):
    """A saved network whose weights file was patched."""
    MemDPC(**SIZES).save_pretrained(folder)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")

    def load(changes):
        path.write_bytes(patched(whole[:header], changes) + whole[header:])
        return counted(MemDPC.from_pretrained, folder)

    return patches(3), load


def hostile_zip(folder):
    """A file of `torch.save` that was patched anywhere, in the new format or the old one."""
    wholes = [released_bytes(folder, zipped) for zipped in (True, False)]
    path = folder / "x.pth.tar"

    def load(case):
        number, changes, share = case
        whole = patched(wholes[number], changes)
        path.write_bytes(whole[: int(share * len(whole))])
        return counted(read_pickle, path) & counted(load_released, path)

    return st.tuples(st.integers(0, 1), patches(4), st.sampled_from([1, 1, 1, 0.9, 0.3])), load


def hostile_pickle(folder):
    """A sound zip file of `torch.save` with a patched pickle in it."""
    released_bytes(folder, zipped=True)
    path = folder / "x.pth.tar"
    with zipfile.ZipFile(folder / "small.pth.tar") as old:
        whole = {name: old.read(name) for name in old.namelist()}

    def load(changes):
        with zipfile.ZipFile(path, "w") as new:
            for name, data in whole.items():
                new.writestr(name, patched(data, changes) if name.endswith(".pkl") else data)
        return counted(read_pickle, path) & counted(load_released, path)

    return patches(3), load


KINDS = {
    "config": hostile_config,
    "header": hostile_header,
    "safetensors": hostile_safetensors,
    "zip": hostile_zip,
    "pickle": hostile_pickle,
}


def run(kind, examples, folder):
    """Draw so many hostile files of a kind; returns how many were tried, and how many refused."""
    strategy, load = KINDS[kind](folder)
    refused = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(case):
        refused.append(load(case))

    draw()
    return len(refused), sum(refused)


def main():
    """Every kind, in little memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 10**9, resource.RLIM_INFINITY))
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            tried, refused = run(kind, int(sys.argv[1]), Path(folder))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{kind}: {tried} tried, {refused} refused, peak {peak:.0f} MB so far")


if __name__ == "__main__":
    main()
