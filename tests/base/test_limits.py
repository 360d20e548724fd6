"""What a small machine gives, in words: by the type and number of an error, not by its text."""

import errno

import pytest

from memdpc.base import limits
from memdpc.base.errors import MachineError
from memdpc.base.limits import explain, shared_memory_serves, starting_processes


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.EMFILE, "x"), "too many open files"),
        (OSError(errno.ENOMEM, "x"), "out of memory"),
        (MemoryError(), "out of memory"),
        (BlockingIOError(errno.EAGAIN, "x"), "no more processes"),
        (FileNotFoundError(errno.ENOENT, "too many open files"), ""),
    ],
)
def test_what_ran_short_is_named(error, said):
    assert said in explain(error) and bool(said) == bool(explain(error))
    try:
        try:
            raise error
        except type(error):
            raise RuntimeError("of a library") from None
    except RuntimeError as later:
        assert explain(later) == explain(error)


def test_a_process_that_cannot_start_is_a_line(monkeypatch):
    """2026-11: too few open files were a traceback of PyTorch's."""
    with (
        pytest.raises(MachineError, match="too many open files.*num_workers 0"),
        starting_processes(1),
    ):
        raise OSError(errno.EMFILE, "Too many open files")


def test_batches_go_another_way_where_shared_memory_is_small(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "SHARED_MEMORY", tmp_path)
    assert shared_memory_serves(1, 1)
    assert not shared_memory_serves(1 << 60, 1)
    monkeypatch.setattr(limits, "limit_of", lambda name: 64)
    assert not shared_memory_serves(1, 1)
