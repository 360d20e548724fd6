"""What tests of datasets start from."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An index of its own for each test: its folder. Processes inherit it."""
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
