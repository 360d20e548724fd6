"""Pictures of unintentional action: the classifier of Figure S1, and a video over time."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from memdpc.base.viz import use_style
from memdpc.evaluation.oops_labels import CLASSES
from memdpc.evaluation.oops_windows import MOMENT

__all__ = []

_CLASS_COLOURS = ("#9fc5e8", "#e06666", "#f6b26b")
_WIDTH = 5.4  # of a filmstrip, inches
_SPACING = 3  # from one step to the next in the drawing of the classifier


# ---- Figure S1


@torch.no_grad()
def flowing_shapes(classifier: Any) -> dict[str, tuple[int, ...]]:
    """`{name: shape}` of what flows through an `OopsClassifier` at one step, read off a clip."""
    model = classifier.memdpc
    size = model.img_size
    x = torch.zeros(
        1,
        model.num_blocks,
        3,
        model.block_len,
        size,
        size,
    )
    z = model.encode(x)
    flow = {
        "x": x,
        "z": z,
        "predicted": model.predict_next(z),
        "mean z": z.mean((3, 4)),
        "logits": classifier(x),
    }
    return {name: tuple(value.shape[2:]) for name, value in flow.items()}


def draw_classifier(classifier: Any) -> Figure:
    """Figure S1 for a live `OopsClassifier` in eval mode: three steps, with the shapes it has."""
    use_style()
    shapes = flowing_shapes(classifier)
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    for t in (1, 2, 3):
        _draw_arrows(ax, _SPACING * t, last=t == 3)
        _draw_boxes(ax, _SPACING * t, t, shapes)
    title = "At each step, what came stands beside what was expected"
    ax.set(
        xlim=(1.6, 11.2),
        ylim=(-0.5, 5.4),
        title=title,
    )
    ax.axis("off")
    return figure


def _draw_arrows(ax, x, last):
    arrows = [
        ((x, 0), (x, 1.3)),  # the encoder f
        ((x, 1.3), (x - 0.2, 4)),  # z to the head
        ((x, 1.3), (x + 1.2, 1.9)),  # z to the aggregator
        ((x + 1.2, 1.9), (x + 1.4, 2.8)),  # through the memory to the prediction
        ((x, 4), (x, 5)),
    ]
    if not last:
        arrows.append(((x + 1.4, 2.8), (x + 3.2, 4)))  # the prediction to the next step's head
        arrows.append(((x + 1.2, 1.9), (x + 4.2, 1.9)))  # the state to the next step
    style = dict(
        arrowstyle="->",
        color="0.4",
        shrinkA=9,
        shrinkB=9,
    )
    for start, end in arrows:
        ax.annotate("", end, start, arrowprops=style)
    ax.text(
        x - 0.1,
        0.65,
        "f",
        fontsize=7,
        ha="right",
    )
    ax.text(
        x + 1.45,
        2.35,
        r"$\phi$, memory",
        fontsize=7,
        va="center",
    )


def _draw_boxes(ax, x, t, shapes):
    past = rf"mean $\hat z_{t}$" if t > 1 else "no past"
    boxes = [
        (x, 0, f"$x_{t}$\n{_times(shapes['x'])}", "#e8e8e8"),
        (x, 1.3, f"$z_{t}$\n{_times(shapes['z'])}", "#cfe2f3"),
        (x + 1.2, 1.9, "g", "#fff2cc"),
        (x + 1.4, 2.8, rf"$\hat z_{t + 1}$" + f"\n{_times(shapes['predicted'])}", "#d9ead3"),
        (x, 4, f"mean $z_{t}$, {past}\n2 · {shapes['mean z'][0]}", "#f4cccc"),
        (x, 5, rf"$\xi$: {shapes['logits'][0]} classes", "#ead1dc"),
    ]
    for left, bottom, text, colour in boxes:
        frame = dict(boxstyle="round", facecolor=colour, edgecolor="0.6")
        ax.text(
            left,
            bottom,
            text,
            ha="center",
            va="center",
            fontsize=7,
            bbox=frame,
        )


def _times(shape):
    return "x".join(str(size) for size in shape)


# ---- a video


def plot_timeline(
    frames: np.ndarray,
    fps: float,
    probabilities: np.ndarray,
    surprise: np.ndarray,
    times: Sequence[float] = (),
    found: float | None = None,
    title: str = "",
) -> Figure:
    """A video's filmstrip over its class probabilities and its surprise, which begins at 0.

    Args:
        frames: uint8 [T, H, W, 3] at `fps` frames a second.
        probabilities: [moments, 3]; a moment is drawn at the middle of its block.
        surprise: [moments]; 0 or NaN where there is no past.
        times: the annotators', in seconds (dotted); -1: saw no failure.
        found: the time found by the classifier, in seconds (red).
    """
    use_style()
    seconds = math.ceil(len(frames) / fps)
    picture = _WIDTH / seconds
    figure, axes = plt.subplots(
        3, 1, sharex=True, figsize=(6, picture + 2.7), height_ratios=(picture, 1, 0.8)
    )
    strip, classes, curve = axes
    _draw_filmstrip(strip, frames, fps, seconds)
    strip.set_title(title, fontsize=9)
    middle = np.arange(len(surprise)) * MOMENT + 0.4
    classes.stackplot(middle, probabilities.T, labels=CLASSES, colors=_CLASS_COLOURS)
    classes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncol=3,
    )
    classes.set(ylim=(0, 1), ylabel="probability")
    shown = np.where(surprise > 0, surprise, np.nan)
    curve.plot(middle, shown, color="0.2")
    top = 1.1 * np.nanmax(shown, initial=0.1)
    curve.set(
        xlim=(0, seconds),
        ylim=(0, top),
        ylabel="surprise",
        xlabel="seconds",
    )
    for axis in (classes, curve):
        _mark_times(axis, times, found)
    return figure


def _draw_filmstrip(ax, frames, fps, seconds):
    for second in range(seconds):
        number = min(round((second + 0.5) * fps), len(frames) - 1)
        extent = (second + 0.03, second + 0.97, 0, 1)
        ax.imshow(frames[number], extent=extent, aspect="auto")
    ax.axis("off")


def _mark_times(ax, times, found):
    for time in times:
        if time >= 0:
            ax.axvline(time, color="0.35", linestyle=":")
    if found is not None:
        ax.axvline(found, color="#990000")
