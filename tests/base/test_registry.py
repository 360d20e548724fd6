"""Parts under names: found, refused, listed."""

from typing import NamedTuple

import pytest

from memdpc.base.errors import ConfigError
from memdpc.base.registry import Registry


@pytest.fixture
def encoders():
    registry = Registry("encoder")
    registry.register("tiny", len)
    return registry


def test_a_name_is_registered_and_found(encoders):
    assert encoders.register("wide", max) is max
    assert encoders["wide"] is max
    assert encoders.names() == ("tiny", "wide")
    assert list(encoders) == ["tiny", "wide"]
    assert "wide" in encoders and "huge" not in encoders
    assert len(encoders) == 2


def test_as_a_decorator(encoders):
    @encoders.register("mine")
    def build():
        return 3

    assert build() == 3
    assert encoders["mine"] is build


def test_an_unknown_name_is_told_the_known_ones(encoders):
    encoders.register("wide", max)
    with pytest.raises(ConfigError) as error:
        encoders["huge"]
    text = "no encoder 'huge': choose one of tiny, wide; names of your own come with --plugin"
    assert str(error.value) == text


def test_a_taken_name_is_refused(encoders):
    with pytest.raises(ConfigError, match="encoder 'tiny' is registered already"):
        encoders.register("tiny", max)
    assert encoders["tiny"] is len


class Entry(NamedTuple):
    function: object
    splits: int


def test_a_cell_may_run_again(encoders):
    """2026-11: a notebook's cell that was run twice, and a plugin imported by two names."""

    def make():
        def build():
            return 3

        return build

    for _ in range(2):
        last = encoders.register("mine", make())
    assert encoders["mine"] is last
    for _ in range(2):
        encoders.register("entry", Entry(make(), 3))
    with pytest.raises(ConfigError):
        encoders.register("entry", Entry(make(), 4))
