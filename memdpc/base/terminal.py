"""What is shown on standard error while a job is at work: a bar, where a person looks on."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def on_terminal() -> bool:
    """Whether a person looks at standard error; daemons and Windows services have none at all."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False


def progress_bar(
    items: Iterable[Any],
    what: str,
    total: int | None = None,
    shown: bool | None = None,
    **more: Any,
) -> tqdm:
    """`items`, with a bar named `what` on standard error.

    Args:
        total: number of items, where `len(items)` does not tell.
        shown: whether there is a bar; None: on a terminal there is, elsewhere not.
        more: passed on to tqdm.
    """
    if shown is None:
        shown = on_terminal()
    return tqdm(
        items,
        what,
        total,
        ascii=True,
        mininterval=1,
        disable=sys.stderr is None or not shown,
        file=sys.stderr,
        **more,
    )


__all__ = []
