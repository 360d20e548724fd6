"""What kind of network a file of weights holds, and what a classifier's gives as a network.

A classifier's file has an encoder and aggregators, and they can be measured like any other. It has
no predictor: a network of its weights has one that says so when it is asked.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

from memdpc.base.errors import CheckpointError
from memdpc.method.memory import PREDICTORS

NETWORK = "a pretrained network"
CLASSIFIER = "a classifier of actions"
OOPS = "a classifier of unintentional action"
MADE_BY = {CLASSIFIER: "memdpc classify trains one", OOPS: "memdpc oops trains one"}

Value = TypeVar("Value")

_BACKBONE = ("encoder.", "forward_gru.", "backward_gru.")
_OF_CLASSIFIER = ("classes", "head_dropout", "frozen")  # in its config


def kind_of(names: Iterable[str]) -> str:
    """What a file with entries of these names holds."""
    names = set(names)
    if any(name.startswith("memdpc.") for name in names):
        return OOPS
    return CLASSIFIER if "linear.weight" in names else NETWORK


def network_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the network in a file of some kind."""
    kept = {name: value for name, value in config.items() if name not in _OF_CLASSIFIER}
    if kind != CLASSIFIER:
        return kept
    kept.pop("loss", None)  # its loss was the cross-entropy
    return kept | {"predictor": "none", "mem_size": 0}


def network_entries(kind: str, entries: Mapping[str, Value]) -> dict[str, Value]:
    """The entries of the network in a file of some kind, as a network has them."""
    if kind == CLASSIFIER:
        return {name: value for name, value in entries.items() if name.startswith(_BACKBONE)}
    if kind == OOPS:
        inner = "memdpc."
        own = {name: value for name, value in entries.items() if name.startswith(inner)}
        return {name.removeprefix(inner): value for name, value in own.items()}
    return dict(entries)


class NoPredictor(nn.Module):
    """Stands in a network whose weights are a classifier's: it has an encoder and aggregators."""

    def forward(self, context: torch.Tensor) -> NoReturn:
        reason = "these weights are a classifier's, which has no predictor"
        raise CheckpointError(f"{reason}: name the pretrained network that it was trained from")


def need_predictor(model: nn.Module, checkpoint: str) -> None:
    """Raise `CheckpointError` for a network that was taken from a classifier."""
    if isinstance(model.predictor, NoPredictor):
        lacks = "a classifier, which has neither a memory nor a predictor"
        raise CheckpointError(f"{checkpoint}: {lacks}: name the network that it was trained from")


@PREDICTORS.register("none")
def _none(
    dim: int,
    num_slots: int,
    address_gain: float,
) -> nn.Module:
    return NoPredictor()


__all__ = []
