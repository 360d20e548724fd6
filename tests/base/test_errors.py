"""Messages: one line, whatever names of files and classes hold."""

import pytest

from memdpc.base.errors import DatasetError, printable

NASTY = "a\x1b[2J\n\u202egpj\u2066\u200b\ufeff\u2028\U000e0041\udcff\ue000b"


def test_what_cannot_be_seen_is_spelled_out():
    """2026-11: marks that turn the direction of text, and signs of no width, reached a terminal."""
    line = printable(NASTY)
    assert line.isprintable()
    assert line.startswith("a\\x1b[2J\\n\\u202egpj") and line.endswith("\\udcff\\ue000b")
    assert printable(line) == line
    assert str(DatasetError(NASTY)) == line


@pytest.mark.parametrize("name", ["Größe", "跳绳", "прыжок", "a b", "x\\y"])
def test_names_in_any_script_stay(name):
    assert printable(name) == name
