"""What the pictures take: tensors of all kinds, names that look like formulas, axes of others."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from numpy.testing import assert_array_equal  # noqa: E402

from memdpc.base.viz import as_array, as_text, curves, filmstrip, heatmap  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def pictures(figure):
    return sum(len(axis.images) for axis in figure.axes)


def test_tensors_of_all_kinds():
    torch = pytest.importorskip("torch")
    ones = torch.ones(3)
    with_gradient = ones.clone().requires_grad_()
    for tensor in (ones, with_gradient, ones.bfloat16(), ones.byte(), torch.nn.Parameter(ones)):
        assert as_array(tensor).tolist() == [1, 1, 1]
    assert as_array(torch.ones(2, dtype=torch.uint8)).dtype == np.uint8
    assert as_array(torch.ones(2, dtype=torch.float64)).dtype == np.float64
    heatmap(torch.rand(3, 3, requires_grad=True))
    axis = curves({"loss": (torch.arange(3), torch.rand(3, requires_grad=True)), "list": [1, 2, 3]})
    assert len(axis.lines) == 2
    assert axis.get_legend()
    clip = torch.zeros(4, 8, 6, 3, dtype=torch.uint8)
    assert pictures(filmstrip(clip)) == 4
    batch = torch.zeros(2, 4, 8, 6, 3, dtype=torch.uint8)  # a batch is a list of clips
    assert pictures(filmstrip(batch, ["a", "b"])) == 8


def test_a_filmstrip_numbers_its_frames():
    clips = np.zeros((2, 12, 8, 8, 3), np.uint8)
    figure = filmstrip(clips, ["right", "down"], every=2, frames=range(12), title="What to see")
    assert len(figure.axes) == 12
    titles = [axis.get_title() for axis in figure.axes[:6]]
    assert titles == ["0", "2", "4", "6", "8", "10"]
    assert figure.get_suptitle() == "What to see"


def test_clips_of_a_filmstrip_may_differ_in_length_and_shape():
    long = np.zeros((4, 8, 8, 3), np.uint8)
    short = np.zeros((3, 8, 16, 3), np.uint8)
    assert pictures(filmstrip([long, short])) == 7


def test_axes_of_the_callers_are_drawn_on():
    _, axes = plt.subplots(1, 2)
    before = len(plt.get_fignums())
    assert heatmap(np.eye(3), "eye", ax=axes[0], cbar=False) is axes[0]
    assert curves({"x squared": ([0, 1, 2], [0, 1, 4])}, "parabola", ax=axes[1]) is axes[1]
    assert len(plt.get_fignums()) == before
    assert_array_equal(axes[1].lines[0].get_ydata(), [0, 1, 4])
    assert axes[1].get_legend() is None


def test_names_are_drawn_as_they_stand():
    """A folder name may hold what matplotlib takes for a formula, or bytes that are not UTF-8."""
    names = [as_text(name) for name in ("$\\frac$", "a$b$c", "x_{y$", "cl\udcff\udcfe", "plain")]
    axis = heatmap(np.zeros((5, 5)), xticklabels=names, yticklabels=names)
    axis.figure.canvas.draw()
    assert names[0] == r"\$\frac\$"
    assert names[3] == r"cl\udcff\udcfe"
    assert names[4] == "plain"
