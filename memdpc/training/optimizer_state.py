"""An optimizer's saved state, loaded only if the optimizer itself can have written it.

`Optimizer.load_state_dict` takes nearly anything, and the next `step()` breaks on it, or computes
something else in silence.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

_CHANGES = ("params", "lr")  # of a group's options: the loop sets the rate at each step


def load_optimizer(optimizer: Optimizer, saved: Any, step: int) -> None:
    """Load the state dict of a step, each entry onto its parameter's device.

    `ValueError` where it is damaged. Other errors of Python and PyTorch are possible where
    `saved` is no state dict at all.
    """
    own = [dict(group) for group in optimizer.param_groups]
    state = {}
    numbers = iter(range(sum(len(group["params"]) for group in own)))
    for group in own:
        entries = _entries_of(type(optimizer), group)
        for parameter, number in zip(group["params"], numbers, strict=False):
            if number in saved["state"]:
                state[number] = _like(parameter, entries, saved["state"][number], step)
    if not state or len(state) != len(saved["state"]):
        raise ValueError("optimizer.pt holds numbers of other parameters")
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    for before, group in zip(own, optimizer.param_groups, strict=True):
        for name, value in before.items():
            if name not in _CHANGES and group[name] != value:
                raise ValueError(f"optimizer.pt has {name} {group[name]!r:.40}")


def _entries_of(kind: type[Optimizer], group: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What such an optimizer keeps of a parameter after a step: found out with one number.

    An entry of shape `[]` is a count, one of shape `[1]` is like the parameter.
    """
    number = nn.Parameter(torch.zeros(1))
    number.grad = torch.zeros(1)
    trial: Any = kind([number])  # type: ignore[call-arg]
    options = {name: value for name, value in group.items() if name != "params"}
    trial.param_groups[0].update(options)
    trial.step()
    return dict(trial.state[number])


def _like(
    parameter: torch.Tensor,
    entries: Mapping[str, torch.Tensor],
    saved: Mapping[str, Any],
    step: int,
) -> dict[str, torch.Tensor]:
    """The saved entries of one parameter, copied into memory of their own."""
    if saved.keys() != entries.keys():
        raise ValueError("optimizer.pt lacks entries, or has others")
    found = {}
    for name, entry in entries.items():
        value = saved[name]
        model = parameter.detach() if entry.shape else entry
        if value.shape != model.shape or value.dtype != model.dtype:
            raise ValueError(f"optimizer.pt has a {name} of another shape or type")
        if model is entry and not 0 < value <= step:
            raise ValueError(f"optimizer.pt has a {name} of {value:g}")
        if not value.isfinite().all():
            raise ValueError(f"optimizer.pt has a {name} that is NaN or infinite")
        found[name] = torch.empty_like(model, device="cpu").copy_(value.detach())
    return found


__all__ = []
