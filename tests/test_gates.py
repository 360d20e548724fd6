"""Gates on the repository: each has the date it was set and the defect that it stops. They read; nothing here runs a lesson again."""

import ast
import base64
import json
import re
import shutil
import subprocess
import sys
import warnings
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "nbs").glob("*.ipynb"))
RUNS = sorted((ROOT / "nbs/runs").glob("*.ipynb"))
NUMBERED = [path for path in LESSONS if re.match(r"\d\d_", path.name)]
BY_HAND = {"__init__", "__main__", "_modidx"}
MODULES = [path for path in sorted((ROOT / "memdpc").glob("*.py")) if path.stem not in BY_HAND]
NUMBERS = {path.stem[3:]: int(path.stem[:2]) for path in NUMBERED}
WITHOUT_TORCH = [
    "viz",
    "video",
    "shapes",
    "datasets",
    "mishaps",
    "config",
    "clips",
    "scan",
    "prepare",
]
DIRECTIVES = {
    "default_exp",
    "export",
    "exporti",
    "exports",
    "hide",
    "eval:",
    "echo:",
    "output:",
    "notest",
    "slow",
    "cuda",
}

each_notebook = pytest.mark.parametrize("path", LESSONS + RUNS, ids=lambda path: path.stem)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
each_numbered = pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
each_run = pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


# ---- reading notebooks


def read(path):
    """A notebook, every source as one string and every text output as one string."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def cells(path, kind="code"):
    """(number, cell) of every cell of a kind that has something in it."""
    return [
        (number, cell)
        for number, cell in enumerate(read(path)["cells"])
        if cell["cell_type"] == kind and cell["source"].strip()
    ]


def directives(cell):
    """The names of a cell's `#|` directives, those that nbdev reads (above the first line of code) and those that it does not."""
    return re.findall(r"^\s*#\s*\|\s*(\S+)", cell["source"], re.M)


def code(cell):
    """A code cell without its directives and magics, ready for ast.parse."""
    lines = [
        line for line in cell["source"].splitlines() if not re.match(r"\s*(#\s*\||[%!])", line)
    ]
    return "\n".join(lines)


def code_lines(cell):
    """How many lines of a cell are neither blank nor directives."""
    return sum(bool(line.strip()) for line in code(cell).splitlines())


def exported(cell):
    return any(name.startswith("export") for name in directives(cell))


def outputs(path):
    """(cell number, output) of every output of a notebook."""
    return [(number, output) for number, cell in cells(path) for output in cell["outputs"]]


def texts(output):
    """What an output shows as text: streams, plain, HTML, Markdown. Pictures are left out: base64 spells anything."""
    data = output.get("data", {})
    parts = [output.get("text", "")] + [
        value for mime, value in data.items() if mime.startswith(("text/", "application/json"))
    ]
    return "\n".join(
        "".join(part) if isinstance(part, (list, str)) else json.dumps(part) for part in parts
    )


def where(path, number, cell):
    """Names a cell in a message."""
    first = next((line for line in cell["source"].splitlines() if not line.startswith("#|")), "")
    return f"{path.name}, cell {number} ({first[:60]!r})"


# ---- the notebooks as files


def test_there_is_something_to_gate():
    """2026-11: a gate over an empty list passes."""
    assert {"index", "00_viz", "40_cli"} <= {path.stem for path in LESSONS}
    assert "pretrain" in {path.stem for path in RUNS}
    assert set(WITHOUT_TORCH) <= {path.stem for path in MODULES}


@each_notebook
def test_notebook_is_valid(path):
    """2026-11: a duplicate cell id or a missing field, which some readers repair in silence and others refuse."""
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))


@each_notebook
def test_kernelspec_names_python(path):
    """2026-11: papermill does not run a notebook whose kernelspec lacks the language."""
    spec = read(path)["metadata"]["kernelspec"]
    assert (spec["name"], spec["language"]) == ("python3", "python")


@each_notebook
def test_committed_with_outputs_and_without_errors(path):
    """2026-11: a notebook without its outputs shows nothing on GitHub; one with a traceback was committed broken."""
    assert outputs(path), "no outputs: run `make notebooks`"
    assert not [number for number, output in outputs(path) if output["output_type"] == "error"]


@each_notebook
def test_cells_that_show_a_value_have_it(path):
    """2026-11: a cell added after the last execution, committed without its output."""
    for number, cell in cells(path):
        if {"eval:", "notest", "slow", "cuda", "default_exp"} & set(directives(cell)) or exported(
            cell
        ):
            continue
        last = ast.parse(code(cell)).body[-1:]
        shows = (
            last
            and isinstance(last[0], ast.Expr)
            and isinstance(
                last[0].value, (ast.Compare, ast.BinOp, ast.JoinedStr, ast.Tuple, ast.Dict)
            )
        )
        if shows and not cell["source"].rstrip().endswith(";"):
            assert cell["outputs"], f"{where(path, number, cell)}: no output; run `make notebooks`"


@each_notebook
def test_no_widgets(path):
    """2026-11: widget state and views (an `interact`, a notebook progress bar) are megabytes that show as nothing."""
    assert "widgets" not in read(path)["metadata"]
    assert not [
        number
        for number, output in outputs(path)
        if any("widget" in mime for mime in output.get("data", {}))
    ]


@each_notebook
def test_sizes(path):
    """2026-11: notebooks of many megabytes that GitHub does not draw and git never forgets."""
    assert path.stat().st_size < 1_000_000
    for number, output in outputs(path):
        if "image/png" in output.get("data", {}):
            size = len(base64.b64decode("".join(output["data"]["image/png"])))
            assert size < 100_000, f"{path.name}, cell {number}: a picture of {size} bytes"


@each_notebook
def test_no_machine_paths(path):
    """2026-11: a path of the author's machine in a source or an output (a warning's file name, a temporary folder)."""
    for number, cell in enumerate(read(path)["cells"]):
        found = machine_paths(
            "\n".join([cell["source"]] + [texts(output) for output in cell.get("outputs", [])])
        )
        assert not found, f"{where(path, number, cell)}: {found}"


def machine_paths(text):
    """Absolute paths into a machine's own folders; addresses on the web and paths below another folder are none."""
    return re.findall(
        r"(?<![\w.~/}>-])/(?:tmp|work|root|home|Users|usr|var|opt|mnt|private)/[^\s'\"<>)]*", text
    )


def test_machine_paths_are_recognised():
    assert machine_paths("in /home/me/x.mp4 and '/tmp/abc/y'") == ["/home/me/x.mp4", "/tmp/abc/y"]
    assert not machine_paths(
        "https://example.org/home/page, docs/tmp/x, ~/work/x, {root}/var/x, and/or"
    )


# ---- the form of a notebook


@each_notebook
def test_title_cell(path):
    """2026-11: nbdev reads the title cell as front matter: prose below the summary line is lost, and a colon in it breaks the parse."""
    notebook = read(path)
    first = notebook["cells"][0]
    assert first["cell_type"] == "markdown"
    lines = [line for line in first["source"].splitlines() if line.strip()]
    assert re.match(r"# \S", lines[0]) and re.match(r"> \S", lines[1])
    assert all(re.match(r"- [\w-]+: \S", line) for line in lines[2:])
    for number, cell in cells(path, "markdown")[1:]:
        prose = re.sub(r"```.*?```", "", cell["source"], flags=re.S)
        assert not re.search(r"^# ", prose, re.M), f"{where(path, number, cell)}: a second H1"


@each_notebook
def test_prose_between_code(path):
    """2026-11: notebooks that are hidden tests and one paragraph: at least one markdown cell for two code cells."""
    prose, programs = len(cells(path, "markdown")), len(cells(path))
    assert 2 * prose >= programs


@each_notebook
def test_cells_are_short(path):
    """2026-11: exported cells of hundreds of lines, which teach nobody. Over 30 lines warns, over 40 fails; other cells 20 at most."""
    for number, cell in cells(path):
        lines = code_lines(cell)
        if "parameters" in cell["metadata"].get("tags", []):
            continue
        if exported(cell) and 30 < lines <= 40:
            warnings.warn(f"{where(path, number, cell)}: {lines} lines exported in one cell")
        assert lines <= (40 if exported(cell) else 20), (
            f"{where(path, number, cell)}: {lines} lines"
        )


@each_notebook
def test_imports_stand_alone(path):
    """2026-11: nbdev's documentation runs the cells that import, and with them whatever else is in the cell."""
    for number, cell in cells(path):
        kinds = {
            isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(code(cell)).body
        }
        assert len(kinds) < 2, f"{where(path, number, cell)}: imports beside other code"


@each_notebook
def test_directives_are_known_and_on_top(path):
    """2026-11: a misspelt directive, or one below the first line of code, does nothing, without a word (`#| hide_input` does not exist)."""
    for number, cell in cells(path):
        unknown = set(directives(cell)) - DIRECTIVES
        assert not unknown, f"{where(path, number, cell)}: {unknown}"
        below = re.search(r"^(?!\s*#)\s*\S.*\n(?:.*\n)*?\s*#\s*\|\s*(\w+)", cell["source"], re.M)
        assert not below, (
            f"{where(path, number, cell)}: the directive {below and below[1]} is below code"
        )


@each_notebook
def test_plain_words(path):
    """2026-11: emoji, leftover notes to oneself, and sentences in print, where markdown should say it."""
    for number, cell in enumerate(read(path)["cells"]):
        at = where(path, number, cell)
        assert not re.search(
            "[\U0001f300-\U0001faff\u2600-\u27bf\ufe0f]", cell["source"].replace("\u2713", "")
        ), f"{at}: emoji"
        assert not re.search(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b", cell["source"]), (
            f"{at}: unfinished"
        )
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse(code(cell))):
                if (
                    isinstance(node, ast.Call)
                    and getattr(node.func, "id", "") == "print"
                    and node.args
                ):
                    text = getattr(node.args[0], "value", "")
                    assert not (isinstance(text, str) and len(text.split()) > 4), (
                        f"{at}: prose in print: {text!r}"
                    )


# ---- lessons and the library


@each_numbered
def test_lesson_exports_the_module_of_its_name(path):
    """2026-11: two notebooks with one default_exp overwrite each other's module in silence."""
    names = [
        re.search(r"default_exp\s+(\S+)", cell["source"])[1]
        for _, cell in cells(path)
        if "default_exp" in directives(cell)
    ]
    assert names == [path.stem[3:]]
    assert "default_exp" in directives(read(path)["cells"][1]), "the second cell is the default_exp"
    assert (ROOT / f"memdpc/{path.stem[3:]}.py").exists(), "not exported: run `make export`"


def test_numbers_and_modules_are_unique():
    """2026-11: a module written by hand, or whose notebook is gone: nothing would explain or test it."""
    assert len({path.stem[:2] for path in NUMBERED}) == len(NUMBERED) == len(NUMBERS)
    assert {path.stem for path in MODULES} == set(NUMBERS)
    for path in MODULES:
        assert "AUTOGENERATED! DO NOT EDIT!" in path.read_text(encoding="utf-8")[:200], (
            f"{path.name} was not written by nbdev"
        )


def imported(source):
    """The names of the memdpc modules that a source imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("memdpc.")
            }
        elif isinstance(node, ast.ImportFrom):
            name = (
                "memdpc" + ("." + node.module if node.module else "") if node.level else node.module
            )
            if name == "memdpc":
                found |= {alias.name for alias in node.names}
            elif name.startswith("memdpc."):
                found.add(name.split(".")[1])
    return found - {"__version__"}


@each_module
def test_module_imports_only_from_lower_numbers(path):
    """2026-11: circular imports, and lessons that use what the reader has not met."""
    late = {
        name
        for name in imported(path.read_text(encoding="utf-8"))
        if NUMBERS[name] >= NUMBERS[path.stem]
    }
    assert not late


@each_numbered
def test_lesson_imports_only_from_lower_numbers(path):
    """2026-11: the same for the cells that are not exported."""
    for number, cell in cells(path):
        late = {
            name for name in imported(code(cell)) if NUMBERS.get(name, 100) >= int(path.stem[:2])
        }
        assert not late, f"{where(path, number, cell)}: {late}"


@each_module
def test_library_imports_only_its_requirements(path):
    """2026-11: a library that needs its development tools, or a package that settings.ini does not name, to be imported."""
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    names = {
        re.match(r"[\w-]+", line.strip())[0]
        for line in config["DEFAULT"]["requirements"].splitlines()
        if line.strip()
    }
    allowed = set(sys.stdlib_module_names) | {"memdpc"} | names - {"scikit-learn"} | {"sklearn"}
    tops = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            tops.add(node.module.split(".")[0])
    assert tops <= allowed


@each_module
def test_public_names_are_listed_and_documented(path):
    """2026-11: public functions without a line that says what they do."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    assert listed and ast.literal_eval(listed[0].value)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            assert text.splitlines() and text.splitlines()[0].strip(), (
                f"{path.name}: {node.name} has no docstring"
            )


def test_files_hold_no_machine_paths_and_nothing_unfinished():
    """2026-11: the same two defects in the library and in the files beside it."""
    top = [
        ROOT / name
        for name in (
            "README.md",
            "Makefile",
            "settings.ini",
            "setup.py",
            "pyproject.toml",
            "environment.yml",
            "constraints.txt",
        )
    ]
    for path in (
        MODULES + [path for path in top if path.exists()] + sorted((ROOT / "tests").glob("*.py"))
    ):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b", text), path.name
        if path.parent.name != "tests":
            assert not machine_paths(re.sub(r"^#!.*", "", text)), path.name


# ---- run notebooks


@each_run
def test_run_notebook_exports_nothing(path):
    """2026-11: a run that changes the library."""
    assert not [
        number
        for number, cell in cells(path)
        if "default_exp" in directives(cell) or exported(cell)
    ]


@each_run
def test_run_notebook_has_one_parameters_cell_of_literals(path):
    """2026-11: without the tag papermill injects at the top, and the defaults then win in silence; an expression cannot be overridden
    one by one, and a parameter without its comment cannot be understood."""
    tagged = [cell for _, cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for node in ast.parse(tagged[0]["source"]).body:
        assert isinstance(node, (ast.Assign, ast.AnnAssign)), ast.unparse(node)
        ast.literal_eval(node.value)
        assert "#" in tagged[0]["source"].splitlines()[node.end_lineno - 1], (
            f"{ast.unparse(node)}: no comment"
        )


@each_lesson
def test_lessons_have_no_parameters(path):
    """2026-11: papermill's tag where nothing is run by papermill."""
    assert not [
        number for number, cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])
    ]


def test_nbdev_test_leaves_the_runs_out():
    """2026-11: a minute for each run notebook, twice: tests/ runs them through papermill."""
    assert (ROOT / "nbs/runs/.notest").exists()


# ---- what importing costs


def modules_after(source):
    """The top-level modules that are loaded after a source has run in a new process."""
    source += "\nimport sys; print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("name", [name for name in WITHOUT_TORCH if name in NUMBERS])
def test_no_torch_in_the_data_path(name):
    """2026-11: three seconds and a gigabyte for every worker process and every `memdpc scan`."""
    assert "torch" not in modules_after(f"import memdpc.{name}")


@pytest.mark.parametrize(
    "words",
    [["--help"], ["shapes", "--help"], ["pretrain", "--help"]] if "cli" in NUMBERS else [],
    ids=" ".join,
)
def test_no_torch_for_help(words):
    """2026-11: three seconds before a line of help."""
    source = f"""
import runpy, sys
sys.argv = ["memdpc", *{words}]
try: runpy.run_module("memdpc", run_name="__main__")
except SystemExit as stop: assert not stop.code, stop.code
"""
    assert "torch" not in modules_after(source)


# ---- the sync check itself

LESSON = [
    ("markdown", "# Small\n\n> A lesson for the test."),
    ("code", "#| default_exp small"),
    ("code", "#| export\ndef double(x):\n    'Twice x.'\n    return 2 * x"),
    ("code", "double(2)"),
]


def write_notebook(path, parts, **metadata):
    """A notebook as Jupyter saves it: execution counts, a language_info, and cell metadata that cleaning has to judge."""
    made = [
        dict(cell_type=kind, id=f"cell{number}", metadata=dict(metadata), source=source)
        for number, (kind, source) in enumerate(parts)
    ]
    for number, cell in enumerate(made):
        if cell["cell_type"] == "code":
            cell |= dict(execution_count=number, outputs=[])
    about = dict(
        kernelspec=dict(display_name="My Python", language="python", name="python3"),
        language_info=dict(name="python", version="3"),
    )
    path.write_text(json.dumps(dict(cells=made, metadata=about, nbformat=4, nbformat_minor=5)))


def nbdev(project, *commands):
    """Run nbdev's commands in a project."""
    for command in commands:
        module, name = {"clean": ("clean", "nbdev_clean"), "export": ("doclinks", "nbdev_export")}[
            command
        ]
        subprocess.run(
            [sys.executable, "-c", f"from nbdev.{module} import {name}; {name}.__wrapped__()"],
            cwd=project,
            check=True,
        )


def fsync_path(project):
    """The sync check on a project: (exit status, what it said)."""
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/sync.py", project], text=True, capture_output=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    """A small project with the repository's settings, one lesson and one run notebook, cleaned and exported."""
    (tmp_path / "nbs/runs").mkdir(parents=True)
    (tmp_path / "memdpc").mkdir()
    shutil.copy2(ROOT / "settings.ini", tmp_path)
    write_notebook(tmp_path / "nbs/00_small.ipynb", LESSON)
    write_notebook(
        tmp_path / "nbs/runs/run.ipynb",
        [("markdown", "# Run\n\n> A run."), ("code", "epochs = 1  # passes")],
        tags=["parameters"],
        collapsed=True,
        papermill={"duration": 1},
    )
    nbdev(tmp_path, "clean", "export")
    return tmp_path


def test_cleaning_keeps_what_papermill_needs(project):
    """2026-11: nbdev_clean removed the `parameters` tag; papermill then injected at the top, and the defaults won in silence."""
    notebook = read(project / "nbs/runs/run.ipynb")
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}
    }
    assert all(cell["metadata"] == {"tags": ["parameters"]} for cell in notebook["cells"])
    assert notebook["cells"][1]["execution_count"] is None
    assert sorted(path.name for path in (project / "memdpc").iterdir()) == [
        "__init__.py",
        "_modidx.py",
        "small.py",
    ]


def edit(path, old, new):
    """Replace a text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stale(project):
    shutil.copy2(project / "memdpc/small.py", project / "memdpc/gone.py")


TAMPERED = {
    "the library edited": (
        lambda project: edit(project / "memdpc/small.py", "2 * x", "3 * x"),
        "memdpc/small.py",
    ),
    "the notebook edited": (
        lambda project: edit(project / "nbs/00_small.ipynb", "2 * x", "x + x"),
        "memdpc/small.py",
    ),
    "a module missing": (
        lambda project: (project / "memdpc/small.py").unlink(),
        "memdpc/small.py: not there",
    ),
    "a module left behind": (stale, "memdpc/gone.py: no notebook exports it"),
    "the index old": (
        lambda project: edit(project / "memdpc/_modidx.py", "double", "triple"),
        "memdpc/_modidx.py",
    ),
    "a notebook not cleaned": (
        lambda project: edit(
            project / "nbs/00_small.ipynb", '"execution_count": null', '"execution_count": 7'
        ),
        "00_small",
    ),
    "a notebook broken": (
        lambda project: edit(project / "nbs/00_small.ipynb", '"cells": [', '"cells": [['),
        "failed",
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_sync_finds(kind, project, monkeypatch):
    """2026-11: a notebook and the library that disagree; where IN_TEST is set nbdev exports nothing, and the check would pass on anything."""
    monkeypatch.setenv("IN_TEST", "1")
    tamper, said = TAMPERED[kind]
    tamper(project)
    status, text = fsync_path(project)
    assert status == 1 and said in text, text


def test_sync_passes_and_touches_nothing(project):
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in project.rglob("*")
        if path.is_file()
    }
    assert fsync_path(project)[0] == 0
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in project.rglob("*")
        if path.is_file()
    }


def test_sync_finds_a_change_in_this_library(tmp_path):
    """2026-11: the same on a copy of the repository itself."""
    shutil.copy2(ROOT / "settings.ini", tmp_path)
    for folder in ("nbs", "memdpc"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    path = tmp_path / "memdpc" / MODULES[-1].name
    path.write_text(
        path.read_text(encoding="utf-8").replace("return", "return  ", 1), encoding="utf-8"
    )
    status, text = fsync_path(tmp_path)
    assert status == 1 and f"memdpc/{path.name}" in text
