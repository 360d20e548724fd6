"""Published weights, loaded strictly: every entry finds its place, or the load is refused.

A released `.pth.tar` is a pickle of a dict, and a pickle is a small program: reading it runs it.
It may name any function of any installed module and have it called, so that opening a stranger's
file in the usual way runs whatever the stranger wrote. Files are therefore read with
`weights_only=True`: tensors, plain containers and one kind of numpy number, nothing else.

The released code compares names, keeps the entries that fit, and goes on: where no name fits,
the network stays random, and nothing says so. Here a missing, extra or misshapen entry is an
error that names it, by its name in the file.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memdpc.base.errors import CheckpointError
from memdpc.method.model import Classifier, MemDPC, load_strictly

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


def load_released(source: str | Path | Mapping[str, Any], **sizes: Any) -> MemDPC:
    """A `MemDPC` with released weights, from the path of a `.pth.tar` or its state dict.

    `sizes` are `MemDPC`'s. Network, memory size and directions are read off the entries, and
    the dtype is kept. `CheckpointError` for a file or an entry that does not fit; the two copies
    of each GRU weight must agree.
    """
    entries = _entries_of(source)
    slots = entries.get("predictor.slots")  # [K, D]
    if slots is None:
        raise CheckpointError("mb: missing (the memory)")
    if slots.ndim != 2 or not slots.is_floating_point():
        raise CheckpointError(f"mb: not a memory, but {_describe(slots)}")
    found: dict[str, Any] = {**_sizes_of(entries), "mem_size": len(slots), **sizes}
    model = MemDPC(**found).to(slots.dtype)
    load_strictly(model, entries, released_name)
    return model


def load_released_classifier(source: str | Path | Mapping[str, Any], **sizes: Any) -> Classifier:
    """A `Classifier` with released, finetuned weights; source, sizes and errors as above.

    It maps clips `[B, N, 3, T, H, W]` to logits `[B, classes]`; the number of classes is read off
    the entries.
    """
    entries = _entries_of(source)
    weight = entries.get("linear.weight")  # [classes, 2D]
    if weight is None:
        raise CheckpointError("final_fc.1.weight: missing (the linear layer)")
    if weight.ndim != 2 or not weight.is_floating_point():
        raise CheckpointError(f"final_fc.1.weight: not a linear layer, but {_describe(weight)}")
    found: dict[str, Any] = {**_sizes_of(entries), **sizes, "mem_size": 0}  # it has no memory
    model = MemDPC(**found)
    classifier = Classifier(model, len(weight)).to(weight.dtype)
    load_strictly(classifier, entries, released_name)
    return classifier


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
    refused = f"{path}: not a checkpoint that can be loaded safely"
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(allowed):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        reason = "it asks for code to be run, or is damaged"
        raise CheckpointError(f"{refused} ({reason})") from error
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise CheckpointError(f"{refused} (it is damaged, or no checkpoint)") from error
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

    `CheckpointError` for an entry that is no tensor, and for two copies that differ.
    """
    state_dict = source if isinstance(source, Mapping) else read_released(source)
    entries: dict[str, torch.Tensor] = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{name}: not a tensor")
        here = rename(name)
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
