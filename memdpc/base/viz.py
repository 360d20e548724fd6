"""The pictures that every lesson uses: filmstrips, heat maps, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memdpc.base.errors import printable
from memdpc.base.files import atomic_write

STYLE: dict[Any, Any] = {
    "figure.dpi": 90,
    "savefig.dpi": 90,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "image.interpolation": "nearest",  # a pixel is a square, not a blur
}


def use_style() -> None:
    """Small fonts, 90 dots per inch, no frame at the top and right: the look of every picture."""
    plt.rcParams.update(STYLE)


def as_array(values: Any) -> np.ndarray:
    """Anything that numpy takes, and tensors with a gradient, on a device or in bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if "bfloat16" in str(getattr(values, "dtype", "")):
        values = values.float()  # numpy has no such type
    return np.asarray(values)


def as_text(name: object) -> str:
    r"""A name for a picture, as it stands.

    A `$` begins no formula, and what cannot be seen is shown as `\udcff`, as on a terminal.
    """
    return printable(name).replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    with atomic_write(path) as part:
        figure.savefig(part, format="png")
    plt.close(figure)


def filmstrip(
    clips: Any,
    titles: Sequence[str] | None = None,
    every: int = 1,
    height: float = 0.9,
    frames: Sequence[object] | None = None,
    title: str | None = None,
) -> Figure:
    """Frames side by side, clips one under the other; clips may differ in length.

    Args:
        clips: uint8 [T, H, W, 3], or a list of such clips, one a row.
        titles: a name for each row.
        every: show each `every`-th frame.
        height: of a frame, in inches.
        frames: what to print above the frames, one entry for each frame of a clip.
        title: says what to notice.
    """
    one_clip = np.ndim(clips[0]) == 3
    rows = [as_array(clip)[::every] for clip in ([clips] if one_clip else clips)]
    use_style()
    figure, axes = _strip_axes(rows, height, titles, frames is not None, title)
    for axis in axes.flat:
        axis.axis("off")
    for strip, row in zip(axes, rows, strict=True):
        for axis, picture in zip(strip, row, strict=False):  # a short clip leaves axes empty
            axis.imshow(picture)
    for strip, name in zip(axes, titles or [], strict=False):
        strip[0].text(-0.06, 0.5, name, transform=strip[0].transAxes, ha="right", va="center")
    shown = list(frames)[::every] if frames is not None else []
    for axis, label in zip(axes[0], shown, strict=False):
        axis.set_title(str(label), fontsize=7, pad=2)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def _strip_axes(
    rows: Sequence[np.ndarray],
    height: float,
    titles: Sequence[str] | None,
    numbered: bool,
    title: str | None,
) -> tuple[Figure, np.ndarray]:
    """A figure just large enough for the frames and their texts, and its axes [rows, frames]."""
    columns = max(len(row) for row in rows)
    width = height * max(row.shape[2] / row.shape[1] for row in rows)
    longest = max(len(name) for name in titles or [""])
    margin = 0.2 + 0.06 * longest  # inches for the names of rows
    head = 0.1
    if title:
        head += 0.2
    if numbered:
        head += 0.15
    size = ((width + 0.06) * columns + margin, (height + 0.06) * len(rows) + head)
    figure, axes = plt.subplots(len(rows), columns, squeeze=False, figsize=size)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    return figure, axes


def heatmap(
    matrix: Any,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    ax: Axes | None = None,
    cmap: str = "mako",
    size: tuple[float, float] = (3, 2.6),
    **more: Any,
) -> Axes:
    """A matrix as coloured cells, dark is low, with its scale; returns the axes.

    Args:
        matrix: [rows, columns].
        title: says what to notice.
        ax: axes to draw on; None: a new figure of `size` inches.
        more: passed on to `seaborn.heatmap`.
    """
    use_style()
    if ax is None:
        _, ax = plt.subplots(figsize=size)
    sns.heatmap(as_array(matrix), ax=ax, cmap=cmap, **more)
    ax.set(title=title or "", xlabel=xlabel or "", ylabel=ylabel or "")
    return ax


def curves(
    series: Mapping[str, Any],
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] = (4, 2.4),
    **more: Any,
) -> Axes:
    """A line for each name; returns the axes.

    Args:
        series: `{name: values}` or `{name: (x, y)}`.
        title: says what to notice.
        ax: axes to draw on; None: a new figure of `size` inches.
        more: passed on to `plot`: marker, alpha, ...
    """
    use_style()
    if ax is None:
        _, ax = plt.subplots(figsize=size)
    for name, values in series.items():
        x, y = values if isinstance(values, tuple) else (range(len(values)), values)
        ax.plot(as_array(x), as_array(y), label=name, **more)
    if len(series) > 1:
        ax.legend()
    ax.set(title=title or "", xlabel=xlabel or "", ylabel=ylabel or "")
    return ax


__all__ = ["curves", "filmstrip", "heatmap", "use_style"]
