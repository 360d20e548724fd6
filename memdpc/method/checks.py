"""Checks of sizes, of clips, and of what encoders and predictors return: shapes only."""

from typing import Any

import torch
from torch import nn

from memdpc.base.errors import ConfigError

_LARGEST_CLIP = 2**28  # bytes, of one; the paper's take 6 MB


def check_sizes(
    img_size: int, num_blocks: int, block_len: int, pred_steps: int, mem_size: int
) -> None:
    """Raise `ValueError` with one line for sizes that no model can have.

    A clip that no machine should be asked for is a `ConfigError`.
    """
    if min(img_size, block_len) < 1:
        raise ValueError(f"img_size and block_len must be positive, got {img_size} and {block_len}")
    if not 0 < pred_steps < num_blocks:
        raise ValueError(
            f"pred_steps must lie in 1..num_blocks-1, got {pred_steps} of {num_blocks} blocks"
        )
    if mem_size < 0:
        raise ValueError(f"mem_size must be 0 (no memory) or more, got {mem_size}")
    clip = 3 * num_blocks * block_len * img_size**2  # bytes
    if clip > _LARGEST_CLIP:
        sizes = f"{num_blocks} blocks of {block_len} frames, {img_size} pixels a side"
        largest = f"at most {_LARGEST_CLIP / 1e9:.2f} GB"
        raise ConfigError(f"a clip of {sizes}, takes {clip / 1e9:.2f} GB: {largest} make sense")


def check_clips(x: torch.Tensor, pred_steps: int) -> None:
    """Raise `ValueError` for what is no clips `[B, N, 3, T, H, W]`, or too few blocks of them."""
    if x.ndim != 6 or x.shape[2] != 3 or not x.is_floating_point():
        found = f"{x.dtype} {list(x.shape)}"
        raise ValueError(
            "expected clips [B, N, 3, T, H, W] as memdpc.data.augment.normalize_clips makes them, "
            f"got {found}"
        )
    if x.shape[1] <= pred_steps:
        raise ValueError(f"{x.shape[1]} blocks are too few to predict {pred_steps} of them")


def shape_of(value: object) -> list[Any]:
    """The shape of a tensor; of anything else the name of its type, as a list of one."""
    return list(value.shape) if isinstance(value, torch.Tensor) else [type(value).__name__]


def encode_blocks(encoder: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    """What `encoder` makes of the blocks of `[B, N, 3, T, H, W]`: `[B*N, D, T', h, w]`."""
    blocks = clips.flatten(0, 1)  # [B*N, 3, T, H, W]
    features = encoder(blocks)
    found = shape_of(features)
    if len(found) != 5 or found[:2] != [len(blocks), encoder.dim]:
        wanted = f"a tensor [B, {encoder.dim}, T', h, w]"
        raise ConfigError(f"the encoder must return {wanted}, got {found}")
    height, width = blocks.shape[-2:]
    if height == width and found[3:] != list(encoder.grid(height)):
        promised = f"{list(encoder.grid(height))} for {height} pixels"
        raise ConfigError(f"the encoder's grid is {found[3:]}, but its grid() says {promised}")
    return features


def predict_once(
    predictor: nn.Module, context: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Address `[B, K, h, w]` or None, and prediction `[B, D, h, w]`, of `context [B, D, h, w]`."""
    found = predictor(context)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ConfigError("the predictor must return the pair (address or None, prediction)")
    address, prediction = found
    wanted = list(context.shape)
    if shape_of(prediction) != wanted:
        got = shape_of(prediction)
        raise ConfigError(f"the predictor's prediction must be {wanted}, got {got}")
    if address is not None and shape_of(address)[2:] != wanted[2:]:
        got = shape_of(address)
        raise ConfigError(f"the predictor's address must be [B, K, h, w], got {got}")
    return address, prediction


__all__ = []
