"""The few pictures everybody uses: filmstrips, heat maps, curves"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

STYLE = {
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
    "image.interpolation": "nearest",
}  # a pixel is a square, not a blur


def use_style():
    "Small fonts, 90 dots per inch, no frame above and at the right: the look of every picture in these notebooks"
    plt.rcParams.update(STYLE)


def as_array(values):
    "Anything that numpy can take, and tensors with a gradient, on a device or in bfloat16"
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if "bfloat16" in str(getattr(values, "dtype", "")):
        values = values.float()  # numpy has no such type
    return np.asarray(values)


def as_text(name):
    "A name as it stands, for a picture: no formula begins at its `$`, and bytes that are no text are spelled out"
    return str(name).encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def filmstrip(
    clips,  # uint8 [T, H, W, 3], or a list of such clips, one a row
    titles=None,  # a name for each row
    every=1,  # show each `every`-th frame
    height=0.9,  # of a frame, in inches
    frames=None,  # what to print above the frames, one entry for each frame of a clip
    title=None,
):  # says what to notice
    "Frames side by side, clips one under the other; clips may differ in length; returns the figure"
    clips = [clips] if np.ndim(clips[0]) == 3 else clips
    rows = [as_array(clip)[::every] for clip in clips]  # each [T, H, W, 3]
    columns, width = max(map(len, rows)), height * max(row.shape[2] / row.shape[1] for row in rows)
    margin, head = (
        0.2 + 0.06 * max(map(len, titles or [""])),
        0.1 + 0.2 * bool(title) + 0.15 * (frames is not None),
    )  # inches for text
    use_style()
    size = (width + 0.06) * columns + margin, (height + 0.06) * len(rows) + head
    figure, axes = plt.subplots(len(rows), columns, squeeze=False, figsize=size)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.axis("off")
    for r, row in enumerate(rows):
        for t, picture in enumerate(row):
            axes[r, t].imshow(picture)
        if titles:
            axes[r, 0].text(
                -0.06, 0.5, titles[r], transform=axes[r, 0].transAxes, ha="right", va="center"
            )
    if frames is not None:
        for axis, label in zip(axes[0], list(frames)[::every]):
            axis.set_title(str(label), fontsize=7, pad=2)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def heatmap(
    matrix,  # [rows, columns]
    title=None,  # says what to notice
    xlabel=None,
    ylabel=None,
    ax=None,  # axes to draw on; None: a new figure
    cmap="mako",  # dark is low
    size=(3, 2.6),  # of a new figure, in inches
    **more,
):  # passed on to seaborn.heatmap
    "A matrix as coloured cells with its scale; returns the axes"
    use_style()
    ax = ax or plt.subplots(figsize=size)[1]
    sns.heatmap(as_array(matrix), ax=ax, cmap=cmap, **more)
    ax.set(title=title or "", xlabel=xlabel or "", ylabel=ylabel or "")
    return ax


def curves(
    series,  # {name: values} or {name: (x, y)}
    title=None,  # says what to notice
    xlabel=None,
    ylabel=None,
    ax=None,  # axes to draw on; None: a new figure
    size=(4, 2.4),  # of a new figure, in inches
    **more,
):  # passed on to plot: marker, alpha, ...
    "A line for each name; returns the axes"
    use_style()
    ax = ax or plt.subplots(figsize=size)[1]
    for name, values in series.items():
        x, y = values if isinstance(values, tuple) else (range(len(values)), values)
        ax.plot(as_array(x), as_array(y), label=name, **more)
    if len(series) > 1:
        ax.legend()
    ax.set(title=title or "", xlabel=xlabel or "", ylabel=ylabel or "")
    return ax
