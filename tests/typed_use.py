"""A user's program, for the type checker: `make types` reads it, and nothing runs it."""

from pathlib import Path
from typing import assert_type

from memdpc import (
    ConfigError,
    MemDPC,
    PretrainConfig,
    RetrieveConfig,
    load_model,
    load_released,
    pretrain,
    retrieve,
)
from memdpc.base.config import PRETRAIN_PRESETS, config_from
from memdpc.base.registry import Registry


def pretrain_and_measure(root: str, out: str) -> None:
    """The public surface, as someone uses it who never opens the library."""
    config = PretrainConfig(root=root, out=out, encoder="tiny", epochs=1)
    assert_type(config.milestones, tuple[int, ...])
    assert_type(config_from(PRETRAIN_PRESETS, {"preset": "demo"}), PretrainConfig)
    pretrain(config)
    retrieve(RetrieveConfig(checkpoint=out, root=root, out=out))


def models(released: Path) -> list[MemDPC]:
    """Fresh, saved and published weights."""
    fresh = MemDPC(img_size=48, num_blocks=6)
    assert_type(fresh, MemDPC)
    return [fresh, load_released(released, img_size=224)]


def registered(registry: Registry[type]) -> type:
    """A registry keeps the type of what is in it."""

    @registry.register("mine")
    class Mine:
        """A part of one's own."""

    assert_type(registry["mine"], type)
    return Mine


__all__ = ["ConfigError", "load_model", "models", "pretrain_and_measure", "registered"]
