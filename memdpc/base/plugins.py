"""Your own modules, imported because you name them, so that a job can use what they register."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from memdpc.base.errors import ConfigError


def load_plugins(names: Sequence[str]) -> None:
    """Import modules from the working directory or the environment, once each.

    Raises `ConfigError` for one that does not import.
    """
    here = str(Path.cwd())
    if names and here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        try:
            import_module(name.removesuffix(".py"))
        except Exception as error:  # a stranger's module may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"plugin {name!r} cannot be imported ({reason})") from error


__all__ = ["load_plugins"]
