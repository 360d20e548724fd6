"""The pictures of the atlas: slots, classes, stages, surprise and futures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memdpc.base.viz import heatmap, use_style

__all__ = []

_WIDTH = 6.8  # of a figure, inches
_CAPTION = 0.15  # of a caption, inches


# ---- blocks of video


class Patch(NamedTuple):
    """A block of a video, to be shown whole."""

    frames: np.ndarray  # uint8 [2, H, W, 3], its first and its last frame
    name: str = ""  # what the video shows


def cut_patch(
    clip: Any,
    block: int,
    name: str = "",
) -> Patch:
    """The `Patch` of a block of a clip, uint8 [N, 3, T, H, W]."""
    frames = np.asarray(clip)[block].transpose(
        1,
        2,
        3,
        0,
    )  # [T, H, W, 3]
    return Patch(frames[[0, -1]], name)


def draw_patch(
    ax: Axes,
    patch: Patch,
    colour: str = "0.3",
    title: str = "",
    caption: str = "",
) -> None:
    """First and last frame side by side, a title above them and their name and a caption below."""
    first, last = _fewer_colours(patch.frames)
    gap = np.full(
        (len(first), 2, 3),
        255,
        np.uint8,
    )
    ax.imshow(np.concatenate([first, gap, last], axis=1))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    below = "\n".join(text for text in (patch.name, caption) if text)
    ax.set_xlabel(below, fontsize=6.5, labelpad=2)
    if title:
        ax.set_title(title, fontsize=7.5, color=colour, pad=3)


def _fewer_colours(frames):
    """16 shades of each colour: a picture file of a third of the size."""
    return frames // 16 * 17


# ---- slots


def plot_usage(
    mean: Any,
    leads: Any,
    dead: Any,
    ax: Axes | None = None,
) -> Axes:
    """Slots by their mean probability, the most used first, on a logarithmic axis.

    Args:
        mean: [K], the mean address.
        leads: bool [K]: slots that have the largest probability in some address.
        dead: bool [K]: slots that never get more than a flat address would give, 1/K.
    """
    use_style()
    mean = np.asarray(mean)
    leads = np.asarray(leads)
    dead = np.asarray(dead)
    order = np.argsort(-mean, kind="stable")
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 2.4))
    kinds = {
        "leads an address": (leads, "C0"),
        "helps": (~leads & ~dead, "0.7"),
        "dead": (dead, "C3"),
    }
    for name, (which, colour) in kinds.items():
        places = np.flatnonzero(which[order])
        heights = mean[order][places]
        ax.bar(
            places,
            heights,
            width=1,
            color=colour,
            label=f"{name}: {len(places)}",
        )
    flat = 1 / len(mean)
    ax.axhline(flat, color="0.4", linestyle=":", linewidth=1)
    ax.annotate(
        "1/K",
        (len(mean), flat),
        fontsize=7,
        color="0.4",
        va="bottom",
        ha="right",
    )
    ax.legend()
    used = np.exp(-(mean * np.log(np.maximum(mean, 1e-30))).sum())
    ax.set(
        yscale="log",
        xlabel="slot, the most used first",
        ylabel="mean probability",
        title=f"As if {used:.0f} of {len(mean)} slots were used alike",
    )
    return ax


def plot_classes(
    sums: torch.Tensor,
    classes: Sequence[str],
    most: int = 32,
    ax: Axes | None = None,
) -> Axes:
    """How much more often than on average each class reads each of the `most` used slots.

    `sums [C, K]`: for each class the sum of its clips' mean addresses. Slots stand by the class
    that reads them most.
    """
    address = sums / sums.sum(1, keepdim=True).clamp(min=1e-12)  # [C, K], a class's mean address
    mean = sums.sum(0) / sums.sum()  # [K]
    used = mean.argsort(descending=True)[:most]
    ratio = (address / mean)[:, used].clamp(min=1 / 8, max=8).log2()
    favourite = ratio.argmax(0).numpy()
    order = np.lexsort((-ratio.amax(0).numpy(), favourite))
    limit = max(ratio.abs().max().item(), 0.1)
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 0.6 + 0.2 * max(len(classes), 4)))
    heatmap(
        ratio[:, order],
        "Which slots a class reads more often (red) or less often than others",
        f"slot: the {len(used)} most used",
        ax=ax,
        cmap="vlag",
        vmin=-limit,
        vmax=limit,
        xticklabels=used[order].tolist(),
        yticklabels=classes,
        cbar_kws={"label": "log2 of the ratio"},
    )
    ax.tick_params(axis="x", labelsize=6, rotation=90)
    return ax


def plot_slots(
    norms: Any,
    patches: Mapping[int, Sequence[Patch]],
    start: Any = None,
) -> Figure:
    """Figure S3: the magnitude of every slot, and the blocks nearest to some of them.

    Args:
        norms: [K], magnitudes; those of the slots in `patches` are orange.
        patches: for each chosen slot the nearest blocks, a column with the nearest on top.
        start: [K], the magnitudes before training, drawn as dots.
    """
    use_style()
    norms = np.asarray(norms)
    chosen = list(patches)
    rows = max(len(found) for found in patches.values())
    height, width = patches[chosen[0]][0].frames.shape[1:3]
    row_height = _WIDTH / len(chosen) * height / (2 * width) + _CAPTION
    figure = plt.figure(figsize=(_WIDTH, 1.55 + rows * row_height))
    heights = [1.15] + [row_height] * rows
    grid = figure.add_gridspec(
        1 + rows,
        len(chosen),
        height_ratios=heights,
    )
    _draw_magnitudes(
        figure.add_subplot(grid[0, :]),
        norms,
        chosen,
        start,
    )
    for column, slot in enumerate(chosen):
        for row, patch in enumerate(patches[slot]):
            ax = figure.add_subplot(grid[1 + row, column])
            draw_patch(
                ax,
                patch,
                "C1",
                f"slot {slot}" if row == 0 else "",
            )
    return figure


def _draw_magnitudes(ax, norms, chosen, start):
    colours = ["C1" if slot in chosen else "0.75" for slot in range(len(norms))]
    ax.bar(
        range(len(norms)),
        norms,
        width=1,
        color=colours,
    )
    if start is not None:
        ax.plot(
            np.asarray(start),
            ".",
            color="k",
            markersize=1.5,
            label="before training",
        )
        ax.legend(loc="lower right")
    for i, slot in enumerate(sorted(chosen)):
        height = norms.max() * (1.03 + 0.12 * (i % 2))
        ax.annotate(
            str(slot),
            (slot, height),
            ha="center",
            color="C1",
            fontsize=7,
        )
    title = "The magnitude of every slot, and the blocks nearest to the marked ones"
    ax.set(
        xlim=(-1, len(norms)),
        ylim=(0, 1.3 * norms.max()),
        ylabel="magnitude",
        title=title,
    )


# ---- stages of training


def plot_stages(
    maps: Mapping[str, np.ndarray],
    purities: Mapping[str, float],
    chance: float,
    labels: np.ndarray,
    classes: Sequence[str],
) -> Figure:
    """Figure S4: a map of addresses, `[V, 2]`, for each stage, classes by colour and marker."""
    use_style()
    size = (max(1.75 * len(maps), 3.5), 2.8)
    figure, axes = plt.subplots(
        1,
        len(maps),
        figsize=size,
        squeeze=False,
    )
    present = np.unique(labels)
    for ax, (stage, points) in zip(axes[0], maps.items()):
        for number, label in enumerate(present):
            x, y = points[labels == label].T
            marker = "os^vD"[number % 5]
            name = classes[label]
            ax.scatter(
                x,
                y,
                s=9,
                color=f"C{number}",
                marker=marker,
                linewidth=0,
                label=name,
            )
        ax.set(
            xticks=[],
            yticks=[],
            title=f"{stage}\npurity {purities[stage]:.2f}",
        )
        ax.spines[:].set_visible(True)
        ax.set_box_aspect(1)
    handles, names = axes[0, 0].get_legend_handles_labels()
    columns = min(5, len(present))
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=columns,
        handletextpad=0.1,
    )
    title = f"Addresses of the next block; purity of 5 neighbours, chance {chance:.2f}"
    figure.suptitle(title, fontsize=9, y=1.04)
    return figure


# ---- surprise


def plot_surprise(
    clips: Any,
    nats: Any,
    chance: float,
    titles: Sequence[str],
) -> Figure:
    """Clips as strips of their blocks, and above each its surprise at every block.

    Args:
        clips: uint8 [N, 3, T, H, W] each.
        nats: the surprise of each clip, [N-1, h, w]: the line is the mean, the dots are cells.
        chance: the surprise of a model that knows nothing, nats.
        titles: of each clip.
    """
    use_style()
    blocks = len(clips[0])
    height, width = clips[0].shape[-2:]
    strip_height = _WIDTH / (2 * blocks) * height / width
    figure, axes = plt.subplots(
        2 * len(clips),
        1,
        figsize=(6.5, len(clips) * (1.2 + strip_height)),
        sharex=True,
        height_ratios=[0.75, strip_height] * len(clips),
    )
    top = 1.15 * max(chance, max(values.max().item() for values in nats))
    for number, (clip, values) in enumerate(zip(clips, nats)):
        curve = axes[2 * number]
        _draw_nats(curve, values, chance)
        curve.set(
            ylim=(0, top),
            ylabel="nats",
            title=titles[number],
        )
        _draw_blocks(axes[2 * number + 1], clip)
    return figure


def _draw_nats(ax, values, chance):
    middle = np.arange(1, len(values) + 1) + 0.5
    ax.plot(
        np.repeat(middle, values[0].numel()),
        values.flatten(),
        ".",
        color="0.6",
        markersize=3,
    )
    ax.plot(
        middle,
        values.mean((1, 2)),
        "o-",
        color="C3",
        markersize=3,
    )
    ax.axhline(chance, color="0.5", linestyle=":", linewidth=1)
    ax.annotate(
        "knows nothing",
        (0.05, chance),
        fontsize=6.5,
        color="0.4",
        va="bottom",
    )


def _draw_blocks(ax, clip):
    for block in range(len(clip)):
        for place, picture in enumerate(_fewer_colours(cut_patch(clip, block).frames)):
            left = block + 0.03 + 0.47 * place
            inset = ax.inset_axes((left, 0.02, 0.46, 0.96), transform=ax.get_xaxis_transform())
            inset.imshow(picture)
            inset.axis("off")
    ax.spines[:].set_visible(False)
    names = [f"block {block + 1}" for block in range(len(clip))]
    ax.set(
        xlim=(0, len(clip)),
        yticks=[],
        xticks=np.arange(len(clip)) + 0.5,
        xticklabels=names,
    )
    ax.tick_params(length=0)


# ---- futures


class LeadingSlot(NamedTuple):
    """A slot that an address reads, and what lies nearest to it."""

    slot: int
    probability: float
    patches: list[Patch]


class Candidate(NamedTuple):
    """A real block, and how probable it is as the one that comes."""

    probability: float
    patch: Patch
    cell: tuple[int, int]  # row, column
    true: bool


class Futures(NamedTuple):
    """What is weighed at one step and one cell of a clip, ready to be drawn."""

    cell: tuple[int, int]  # row, column
    seen: list[Patch]
    truth: Patch  # what came
    slots: list[LeadingSlot]
    believed: list[Candidate]


def plot_futures(futures: Futures, title: str = "") -> Figure:
    """What was seen and what came; the leading slots; the blocks that the prediction fits best."""
    use_style()
    columns = max(
        len(futures.seen) + 1,
        len(futures.slots),
        len(futures.believed),
    )
    found = max(len(slot.patches) for slot in futures.slots)
    height, width = futures.truth.frames.shape[1:3]
    row_height = 7 / columns * height / (2 * width) + 0.36
    figure = plt.figure(figsize=(7, (2 + found) * row_height))
    parts = figure.subfigures(
        3,
        1,
        height_ratios=[1.2, found + 0.35, 1.35],
    )
    row, column = futures.cell
    titles = (
        f"{title} (the cell in row {row + 1}, column {column + 1})",
        "address: the leading slots, and the blocks nearest to each",
        "belief: the candidates that the prediction fits best",
    )
    for part, text in zip(parts, titles):
        part.suptitle(text, fontsize=8.5, x=0.01, ha="left")
    _draw_seen(
        _empty_axes(
            parts[0],
            1,
            columns,
        )[0],
        futures,
    )
    _draw_slots(_empty_axes(parts[1], found, columns), futures)
    _draw_believed(
        _empty_axes(
            parts[2],
            1,
            columns,
        )[0],
        futures,
    )
    return figure


def _empty_axes(part, rows, columns):
    axes = part.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return axes


def _draw_seen(axes, futures):
    for number, (ax, patch) in enumerate(zip(axes, futures.seen)):
        draw_patch(
            ax,
            patch,
            "0.4",
            f"seen: block {number + 1}",
        )
    draw_patch(
        axes[len(futures.seen)],
        futures.truth,
        "C2",
        "what came",
    )


def _draw_slots(axes, futures):
    for column, leading in enumerate(futures.slots):
        title = f"slot {leading.slot}: {leading.probability:.2f}"
        for row, patch in enumerate(leading.patches):
            draw_patch(
                axes[row, column],
                patch,
                "C1",
                title if row == 0 else "",
            )


def _draw_believed(axes, futures):
    for ax, candidate in zip(axes, futures.believed):
        title = f"{candidate.probability:.2f}"
        if candidate.true:
            title += " (true)"
        row, column = candidate.cell
        caption = f"row {row + 1}, column {column + 1}"
        draw_patch(
            ax,
            candidate.patch,
            "C2" if candidate.true else "C0",
            title,
            caption,
        )
