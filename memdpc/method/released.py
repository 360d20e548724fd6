"""the published weights, loaded strictly: every entry finds its place, or the load is refused"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from memdpc.base.errors import CheckpointError
from memdpc.method.model import Classifier, MemDPC, load_strictly


def reason(error):
    "One line of what made `torch.load` fail."
    refused = re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", str(error))
    if refused:
        return f"it asks for {refused[1]}, which is no part of a file of weights"
    if not isinstance(error, (RuntimeError, OSError)) or not str(error):
        return "it is damaged, or no checkpoint"
    return re.split(r"[.] |[.]?$", str(error).strip(), maxsplit=1, flags=re.M)[0]


def read_released(path):
    """The state dict of a released `.pth.tar`, read with `weights_only=True`: nothing in the file can run code.

    Released files hold `best_acc`, a numpy scalar pickled under numpy's old module name; exactly that is allowed, nothing more.
    """
    allowed = [
        (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        np.dtypes.Float64DType,
    ]
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(allowed):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a checkpoint that can be loaded safely ({reason(error)})"
        ) from None
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise CheckpointError(f"{path}: holds no state_dict")
    return checkpoint["state_dict"]


RENAMED = [  # (released name, ours)
    (r"^module\.", ""),
    (r"^backbone\.", "encoder."),
    (r"^agg_f\.(cell_list\.0|ConvGRUCell_00)\.", "forward_gru."),
    (r"^agg_b\.(cell_list\.0|ConvGRUCell_00)\.", "backward_gru."),
    (r"^network_pred\.", "predictor.phi."),
    (r"^mb$", "predictor.slots"),
    (r"^final_bn\.", "norm."),  # these two in a finetuned classifier
    (r"^final_fc\.1\.", "linear."),
]


def rename(name):
    "Our name of a released entry."
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def network_of(names):
    "Which ResNet the (renamed) entries belong to: `conv3` marks the 50, six blocks in the third stage the 34."
    if any(".conv3." in name for name in names):
        return "resnet50"
    return "resnet34" if any(name.startswith("encoder.layer3.5.") for name in names) else "resnet18"


def renamed_entries(state_dict):
    "`state_dict` under our names. An entry that is no tensor, or a second copy that differs from the first, is a `CheckpointError`."
    entries = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{name}: not a tensor")
        ours = rename(name)
        if ours in entries and not torch.equal(entries[ours], value):
            raise CheckpointError(f"{name}: its two copies differ")
        entries[ours] = value
    return entries


def entries_of(source):  # path of a `.pth.tar`, or its state dict
    "What a released source holds, under our names."
    return renamed_entries(source if isinstance(source, Mapping) else read_released(Path(source)))


def load_released(
    source, **sizes
):  # path of a `.pth.tar`, or its state dict; `img_size`, `num_blocks`, ... as of `MemDPC`
    """A `MemDPC` with released weights. A missing, extra or misshapen entry is a `CheckpointError` that names it.

    Network and memory size are read off the entries; the dtype is the source's. Each GRU weight stands twice in a released file: both must agree.
    """
    entries = entries_of(source)
    slots = entries.get("predictor.slots")  # [K, D]
    if slots is None:
        raise CheckpointError("mb: missing (the memory)")
    if slots.ndim != 2 or not slots.is_floating_point():
        raise CheckpointError(f"mb: not a memory, but {slots.dtype} of shape {list(slots.shape)}")
    sizes = {
        "encoder": network_of(entries),
        "mem_size": len(slots),
        "bidirectional": any(name.startswith("backward_gru.") for name in entries),
    } | sizes
    model = MemDPC(**sizes).to(slots.dtype)
    load_strictly(model, entries)
    return model


def load_released_classifier(
    source, **sizes
):  # path of a `.pth.tar`, or its state dict; sizes as of `MemDPC`
    """A `Classifier` with released, finetuned weights: clips `[B, N, 3, T, H, W]` to logits `[B, classes]`; strict as `load_released`.

    Network, directions and the number of classes are read off the entries; the dtype is the source's.
    """
    entries = entries_of(source)
    weight = entries.get("linear.weight")  # [classes, 2D]
    if weight is None:
        raise CheckpointError("final_fc.1.weight: missing (the linear layer)")
    if weight.ndim != 2 or not weight.is_floating_point():
        raise CheckpointError(
            f"final_fc.1.weight: not a linear layer, but {weight.dtype} of shape {list(weight.shape)}"
        )
    sizes = {
        "encoder": network_of(entries),
        "bidirectional": any(name.startswith("backward_gru.") for name in entries),
    } | sizes
    classifier = Classifier(MemDPC(**sizes | {"mem_size": 0}), len(weight)).to(weight.dtype)
    load_strictly(classifier, entries)
    return classifier
