"""Your own modules, imported by name: from the working directory, once, and in one line if not."""

import subprocess
import sys

import pytest

from memdpc.base.errors import ConfigError
from memdpc.base.plugins import load_plugins


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_imported_once_with_or_without_its_suffix(folder):
    (folder / "my_plugin.py").write_text("import sys\nsys.imports = getattr(sys, 'imports', 0) + 1")
    try:
        load_plugins(["my_plugin", "my_plugin.py"])
        load_plugins(("my_plugin",))
        assert sys.imports == 1
    finally:
        del sys.imports


def test_nothing_is_asked_for(folder):
    before = sys.path[:]
    load_plugins(())
    assert sys.path == before


@pytest.mark.parametrize(
    "source, reason",
    [
        (None, "ModuleNotFoundError"),
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('two\\nlines')", r"two\\nlines"),
    ],
)
def test_one_that_fails_is_one_line(folder, source, reason):
    if source is not None:
        (folder / "bad_plugin.py").write_text(source)
    with pytest.raises(ConfigError, match=reason) as error:
        load_plugins(["bad_plugin"])
    assert str(error.value).startswith("plugin 'bad_plugin' cannot be imported (")
    assert "\n" not in str(error.value)


def test_from_the_command_line(tmp_path):
    """A plugin is imported before its job starts, and one that fails ends in status 2."""
    (tmp_path / "mine.py").write_text("print('imported')")
    words = ["scan", "--root", "nowhere", "--plugin"]
    done = [
        subprocess.run(
            [sys.executable, "-m", "memdpc", *words, name],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        for name in ("mine", "yours")
    ]
    assert done[0].stdout == "imported\n"
    assert [one.returncode for one in done] == [2, 2]
    assert "plugin 'yours' cannot be imported" in done[1].stderr
