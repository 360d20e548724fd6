"""Results as text, and names that a spreadsheet would take for formulas."""

import pytest
from test_errors import NASTY

from memdpc.base.tables import path_cell, path_in, results_text, text_cell


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-x/a.mp4", "@a", "\ta", "\uff1dfull width"])
def test_no_name_begins_a_formula(name):
    """2026-11: a file named `=HYPERLINK(...)` was a formula in scan.csv."""
    assert path_cell(name) == "./" + name
    assert path_in(path_cell(name)) == name
    assert text_cell(name) == "'" + name


@pytest.mark.parametrize("name", ["a=b.mp4", "./a.mp4", "a/-b.mp4", ""])
def test_other_names_and_numbers_stay(name):
    assert path_in(path_cell(name)) == path_cell(name) == text_cell(name) == name
    assert text_cell(-1) == -1


@pytest.mark.parametrize("value", [[{}], [{"x": 1}, 2], [2, {}], [], {}])
def test_results_that_are_no_table_are_printed_as_they_are(value):
    """A folder's metrics.json may hold anything; 2026-11: rows of no columns were a traceback."""
    assert results_text({"name": value}).startswith("name")


def test_names_in_results_are_safe_to_print():
    text = results_text({"probe": {NASTY: 0.5}, "rows": [{"class": NASTY, "share": None}]})
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_tiny_number_is_no_zero():
    """2026-11: a learning rate of 1e-4 stood as 0.000."""
    lines = results_text({"lr": 1e-4, "loss": 2.5, "none": 0.0, "steps": 7}).split("\n")
    assert [line.split()[-1] for line in lines] == ["1.0e-04", "2.500", "0.000", "7"]
