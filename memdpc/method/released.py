"""Published weights, loaded strictly: every entry finds its place, or the load is refused.

A released `.pth.tar` is a pickle of a dict, and a pickle is a small program: reading it runs it.
It may name any function of any installed module and have it called, so that opening a stranger's
file in the usual way runs whatever the stranger wrote. Files are therefore read with
`weights_only=True`: tensors, plain containers and one kind of numpy number, nothing else.

The released code compares names, keeps the entries that fit, and goes on: where no name fits,
the network stays random, and nothing says so. Here a missing, extra or misshapen entry is an
error that names it, by its name in the file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from memdpc.base.errors import CheckpointError
from memdpc.base.files import expand_home
from memdpc.method.kinds import NETWORK, kind_of, network_config, network_entries
from memdpc.method.model import Classifier, MemDPC
from memdpc.method.saving import check_numbers, check_slots, dtype_of, load_strictly
from memdpc.method.weights import read_pickle

Net = TypeVar("Net", bound=nn.Module)

# How a name in the file begins, and how the same entry is called here. The released GRU keeps its
# cell both in a list and as an attribute, so each of its weights stands in the file twice.
PREFIXES = (
    ("backbone.", "encoder."),
    ("agg_f.cell_list.0.", "forward_gru."),
    ("agg_f.ConvGRUCell_00.", "forward_gru."),
    ("agg_b.cell_list.0.", "backward_gru."),
    ("agg_b.ConvGRUCell_00.", "backward_gru."),
    ("network_pred.", "predictor.phi."),
    ("final_bn.", "norm."),  # these two in a finetuned classifier
    ("final_fc.1.", "linear."),
)


def is_released(checkpoint: str | Path) -> bool:
    """Whether `checkpoint` names a file in the format of the published weights."""
    return str(checkpoint).endswith((".pth.tar", ".pth"))


def load_released(source: str | Path | Mapping[str, Any], **sizes: Any) -> MemDPC:
    """A `MemDPC` with released weights, from the path of a `.pth.tar` or its state dict.

    `sizes` are `MemDPC`'s. Network, memory size and directions are read off the entries, and
    the dtype is kept. `CheckpointError` for a file or an entry that does not fit; the two copies
    of each GRU weight must agree. Of a finetuned classifier encoder and aggregators are taken.
    """
    entries = _entries_of(source)
    kind = kind_of(entries)
    slots = entries.get("predictor.slots")  # [K, D]
    if kind == NETWORK and slots is None:
        raise CheckpointError("mb: missing (the memory)")
    if slots is not None and (slots.ndim != 2 or not slots.is_floating_point()):
        raise CheckpointError(f"mb: not a memory, but {_describe(slots)}")
    found = _sizes_of(entries) | {"mem_size": 0 if slots is None else len(slots)} | sizes
    return _build(MemDPC, network_config(kind, found), network_entries(kind, entries))


def load_released_classifier(source: str | Path | Mapping[str, Any], **sizes: Any) -> Classifier:
    """A `Classifier` with released, finetuned weights; source, sizes and errors as above.

    It maps clips `[B, N, 3, T, H, W]` to logits `[B, classes]`; the number of classes is read off
    the entries.
    """
    entries = _entries_of(source)
    weight = entries.get("linear.weight")  # [classes, 2D]
    if weight is None:
        network = "; this is a pretrained network" if "predictor.slots" in entries else ""
        raise CheckpointError(f"final_fc.1.weight: missing (the linear layer){network}")
    if weight.ndim != 2 or not weight.is_floating_point():
        raise CheckpointError(f"final_fc.1.weight: not a linear layer, but {_describe(weight)}")
    found = _sizes_of(entries) | sizes | {"mem_size": 0}  # it has no memory
    found["classes"] = range(len(weight))

    def build(classes: Sequence[int], **sizes: Any) -> Classifier:
        return Classifier(MemDPC(**sizes), len(classes))

    return _build(build, found, entries)


def _build(build: Callable[..., Net], config: dict[str, Any], entries: dict[str, Tensor]) -> Net:
    """The network of a config with the weights of `entries`, in their dtype."""
    check_slots(config, entries, released_name)
    model = build(**config).to(dtype_of(entries))
    load_strictly(model, entries, released_name)
    return model


def read_released(path: str | Path) -> Mapping[str, Any]:
    """The state dict of a released `.pth.tar`; nothing in the file can run code.

    Released files hold `best_acc`, a numpy number pickled under numpy's old module name; exactly
    that is allowed, nothing more.
    """
    make_scalar = np.float64(0).__reduce__()[0]
    allowed = [
        (make_scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        np.dtypes.Float64DType,
    ]
    checkpoint = read_pickle(Path(expand_home(path)), allowed)
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise CheckpointError(f"{path}: holds no state_dict")
    return checkpoint["state_dict"]


def rename(name: str) -> str:
    """The name here of a released entry; a name that is not known stays as it is."""
    name = name.removeprefix("module.")  # in front of all names, if several GPUs were used
    if name == "mb":
        return "predictor.slots"
    for released, here in PREFIXES:
        if name.startswith(released):
            return here + name.removeprefix(released)
    return name


def released_name(name: str) -> str:
    """The (first) name in a released file of an entry here: the inverse of `rename`."""
    if name == "predictor.slots":
        return "mb"
    for released, here in PREFIXES:
        if name.startswith(here):
            return released + name.removeprefix(here)
    return name


def _entries_of(source: str | Path | Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What a released source holds, under the names here.

    `CheckpointError` for an entry that is no tensor, or NaN, and for two copies that differ.
    """
    state_dict = source if isinstance(source, Mapping) else read_released(source)
    entries: dict[str, torch.Tensor] = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{name}: not a tensor")
        here = rename(name)
        check_numbers(name, value)
        if here in entries and not torch.equal(entries[here], value):
            raise CheckpointError(f"{name}: its two copies differ")
        entries[here] = value
    return entries


def _sizes_of(entries: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Which ResNet the entries belong to, and whether they have both directions."""
    if any(".conv3." in name for name in entries):  # only bottlenecks have a third convolution
        encoder = "resnet50"
    elif any(name.startswith("encoder.layer3.5.") for name in entries):  # a sixth block
        encoder = "resnet34"
    else:
        encoder = "resnet18"
    backward = any(name.startswith("backward_gru.") for name in entries)
    return {"encoder": encoder, "bidirectional": backward}


def _describe(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)}"


__all__ = ["load_released", "load_released_classifier"]
