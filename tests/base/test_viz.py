"""What the pictures take that their lesson, which runs without torch, cannot show."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from memdpc.base.viz import as_array, as_text, curves, filmstrip, heatmap  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_tensors_of_all_kinds():
    torch = pytest.importorskip("torch")
    ones = torch.ones(3)
    for tensor in (
        ones,
        ones.clone().requires_grad_(),
        ones.bfloat16(),
        ones.byte(),
        torch.nn.Parameter(ones),
    ):
        assert as_array(tensor).tolist() == [1, 1, 1]
    assert (
        as_array(torch.ones(2, dtype=torch.uint8)).dtype == np.uint8
        and as_array(torch.ones(2, dtype=torch.float64)).dtype == np.float64
    )
    heatmap(torch.rand(3, 3, requires_grad=True))
    axis = curves({"loss": (torch.arange(3), torch.rand(3, requires_grad=True)), "list": [1, 2, 3]})
    assert len(axis.lines) == 2 and axis.get_legend()
    figure = filmstrip(torch.zeros(4, 8, 6, 3, dtype=torch.uint8))
    assert sum(len(axis.images) for axis in figure.axes) == 4
    figure = filmstrip(
        torch.zeros(2, 4, 8, 6, 3, dtype=torch.uint8), ["a", "b"]
    )  # a batch is a list of clips
    assert sum(len(axis.images) for axis in figure.axes) == 8


def test_names_are_drawn_as_they_stand():
    """Names of folders, which may hold what matplotlib takes for a formula, or bytes that are no text."""
    names = [as_text(name) for name in ("$\\frac$", "a$b$c", "x_{y$", "cl\udcff\udcfe", "plain")]
    axis = heatmap(np.zeros((5, 5)), xticklabels=names, yticklabels=names)
    axis.figure.canvas.draw()
    assert names[0] == r"\$\frac\$" and names[3] == r"cl\udcff\udcfe" and names[4] == "plain"
