"""Gates on the repository: each has the date it was set and the defect that it stops.

They read; nothing here runs a lesson again.
"""

import ast
import base64
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
LIBRARY = ROOT / "memdpc"
sys.path.append(str(ROOT / ".ci"))
import sync  # noqa: E402

# The floors of the house: what a module of each may import from, beside its own folder.
FLOORS = {
    "base": set(),
    "data": {"base"},
    "method": {"base"},
    "training": {"base", "data", "method"},
    "evaluation": {"base", "data", "method", "training"},
    "cli": {"base", "data", "method", "training", "evaluation"},
}
LESSONS = sorted(path for path in NBS.glob("*/[0-9][0-9]_*.ipynb") if path.parent.name in FLOORS)
GUIDES = sorted((NBS / "guides").glob("*.ipynb"))
RUNS = sorted((NBS / "runs").glob("*.ipynb"))
NOTEBOOKS = [NBS / "index.ipynb", *LESSONS, *GUIDES, *RUNS]
GENERATED = {"__init__", "_modidx"}
MODULES = sorted(
    path for path in LIBRARY.rglob("*.py") if path.stem not in {*GENERATED, "__main__"}
)
PYTHON = [
    *sorted(path for path in LIBRARY.rglob("*.py") if path.stem != "_modidx"),
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / ".ci").glob("*.py")),
    ROOT / "setup.py",
]
TEXTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
# Each track is read in this order, and each lesson ends with the next.
TRACKS = [
    [path for floor in floors for path in LESSONS if path.parent.name == floor]
    for floors in (["method", "training", "evaluation"], ["data"])
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


def name_of(path):
    """A file's path within the repository, as an id and in messages."""
    return path.relative_to(ROOT).as_posix()


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=name_of)


each_notebook = each(NOTEBOOKS)
each_lesson = each(LESSONS)
each_run = each(RUNS)
each_module = each(MODULES)


# ---- reading notebooks and modules


def read(path):
    """A notebook, every source as one string."""
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
    """The names of a cell's `#|` directives, read by nbdev or not."""
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


def is_exported(cell):
    return any(name.startswith("export") for name in directives(cell))


def outputs(path):
    """(cell number, output) of every output of a notebook."""
    return [(number, output) for number, cell in cells(path) for output in cell["outputs"]]


def shown_text(output):
    """What an output shows as text: streams, plain, HTML, Markdown; base64 spells anything."""
    parts = [output.get("text", "")]
    for mime, value in output.get("data", {}).items():
        if mime.startswith(("text/", "application/json")):
            parts.append(value)
    return "\n".join(
        "".join(part) if isinstance(part, (list, str)) else json.dumps(part) for part in parts
    )


def where(path, number, cell):
    """Names a cell in a message."""
    lines = [line for line in cell["source"].splitlines() if not line.startswith("#|")]
    return f"{name_of(path)}, cell {number} ({(lines or [''])[0][:60]!r})"


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    return [
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def listed_names(tree):
    """A module's `__all__`; None where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return None


# ---- the notebooks as files


def test_there_is_something_to_gate():
    """2026-11: a gate over an empty list passes."""
    lessons = {name_of(path) for path in LESSONS}
    assert {"nbs/method/03_memory.ipynb", "nbs/data/01_video.ipynb"} <= lessons
    assert {path.stem for path in RUNS} >= {"pretrain", "retrieve"}
    assert {name_of(path) for path in MODULES} >= {"memdpc/base/config.py", "memdpc/cli.py"}
    assert all(len(track) >= 4 for track in TRACKS)
    assert {path.parent.name for path in MODULES} >= {*FLOORS, "memdpc"} - {"cli"}


@each_notebook
def test_notebook_is_valid(path):
    """2026-11: a duplicate cell id or a missing field, which some readers repair in silence."""
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))


@each_notebook
def test_kernelspec_names_python(path):
    """2026-11: papermill does not run a notebook whose kernelspec lacks the language."""
    spec = read(path)["metadata"]["kernelspec"]
    assert (spec["name"], spec["language"]) == ("python3", "python")


@each_notebook
def test_committed_with_outputs_and_without_errors(path):
    """2026-11: a notebook without its outputs, which shows nothing on GitHub, or with an error."""
    assert outputs(path), "no outputs: run `make notebooks`"
    assert not [number for number, output in outputs(path) if output["output_type"] == "error"]


@each_notebook
def test_cells_that_show_a_value_have_it(path):
    """2026-11: a cell added after the last execution, committed without its output."""
    not_run = {"eval:", "notest", "slow", "cuda", "default_exp"}
    values = (ast.Compare, ast.BinOp, ast.JoinedStr, ast.Tuple, ast.Dict)
    for number, cell in cells(path):
        if not_run & set(directives(cell)) or is_exported(cell):
            continue
        last = ast.parse(code(cell)).body[-1:]
        shows = last and isinstance(last[0], ast.Expr) and isinstance(last[0].value, values)
        if shows and not cell["source"].rstrip().endswith(";"):
            assert cell["outputs"], f"{where(path, number, cell)}: no output; run `make notebooks`"


@each_notebook
def test_no_widgets(path):
    """2026-11: widget state and views are megabytes that show as nothing."""
    assert "widgets" not in read(path)["metadata"]
    for number, output in outputs(path):
        widgets = [mime for mime in output.get("data", {}) if "widget" in mime]
        assert not widgets, f"{name_of(path)}, cell {number}"


@each_notebook
def test_sizes(path):
    """2026-11: notebooks of many megabytes that GitHub does not draw and git never forgets."""
    assert path.stat().st_size < 1_000_000
    for number, output in outputs(path):
        if "image/png" in output.get("data", {}):
            size = len(base64.b64decode("".join(output["data"]["image/png"])))
            assert size < 100_000, f"{name_of(path)}, cell {number}: a picture of {size} bytes"


@each_notebook
def test_no_machine_paths(path):
    """2026-11: a path of the author's machine in a source or an output (a warning, say)."""
    for number, cell in enumerate(read(path)["cells"]):
        shown = [shown_text(output) for output in cell.get("outputs", [])]
        found = machine_paths("\n".join([cell["source"], *shown]))
        assert not found, f"{where(path, number, cell)}: {found}"


def machine_paths(text):
    """Absolute paths into a machine's own folders, not web addresses or paths below another."""
    folders = "tmp|work|root|home|Users|usr|var|opt|mnt|private"
    return re.findall(rf"(?<![\w.~/}}>-])/(?:{folders})/[^\s'\"<>)]*", text)


def test_machine_paths_are_recognised():
    """The gate above, tested."""
    assert machine_paths("in /home/me/x.mp4 and '/tmp/abc/y'") == ["/home/me/x.mp4", "/tmp/abc/y"]
    others = "https://example.org/home/page, docs/tmp/x, ~/work/x, {root}/var/x, and/or"
    assert not machine_paths(others)


# ---- the form of a notebook


@each_notebook
def test_title_cell(path):
    """2026-11: nbdev reads the title cell as front matter: prose under the summary line is lost."""
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    lines = [line for line in first["source"].splitlines() if line.strip()]
    assert re.match(r"# \S", lines[0]) and re.match(r"> \S", lines[1])
    assert all(re.match(r"- [\w-]+: \S", line) for line in lines[2:])
    for number, cell in cells(path, "markdown")[1:]:
        prose = without_code(cell["source"])
        assert not re.search(r"^# ", prose, re.M), f"{where(path, number, cell)}: a second H1"


def without_code(markdown):
    """Markdown without its fenced programs."""
    return re.sub(r"```.*?```", "", markdown, flags=re.S)


@each_notebook
def test_prose_between_code(path):
    """2026-11: notebooks that are sixty hidden tests and one paragraph."""
    prose = len(cells(path, "markdown"))
    programs = len(cells(path))
    assert 2 * prose >= programs, f"{prose} cells of prose for {programs} of code"


@each_notebook
def test_cells_are_short(path):
    """2026-11: exported cells of hundreds of lines, which teach nobody."""
    for number, cell in cells(path):
        if "parameters" in cell["metadata"].get("tags", []):
            continue
        lines = code_lines(cell)
        limit = 40 if is_exported(cell) else 20
        assert lines <= limit, f"{where(path, number, cell)}: {lines} lines, {limit} at most"


@each_notebook
def test_code_fits_a_laptops_width(path):
    """2026-11: one line in five had to be scrolled sideways; JupyterLab shows 100 columns."""
    wide = [
        f"{where(path, number, cell)}: {len(line)} columns"
        for number, cell in cells(path)
        for line in cell["source"].splitlines()
        if len(line) > 100
    ]
    assert not wide, "\n".join(wide)


@each_notebook
def test_imports_stand_alone(path):
    """2026-11: nbdev's documentation runs the cells that import, and what else is in them."""
    for number, cell in cells(path):
        if cell["source"].startswith("%%"):  # a file that the cell writes
            continue
        statements = ast.parse(code(cell)).body
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in statements}
        assert len(kinds) < 2, f"{where(path, number, cell)}: imports beside other code"


@each_notebook
def test_directives_are_known_and_on_top(path):
    """2026-11: a misspelt directive, or one under the first line of code, does nothing."""
    late = r"^(?!\s*#)\s*\S.*\n(?:.*\n)*?\s*#\s*\|\s*(\w+)"
    for number, cell in cells(path):
        unknown = set(directives(cell)) - DIRECTIVES
        assert not unknown, f"{where(path, number, cell)}: {unknown}"
        found = re.search(late, cell["source"], re.M)
        assert not found, f"{where(path, number, cell)}: a directive under code"


@each_notebook
def test_no_emoji_and_nothing_unfinished(path):
    """2026-11: emoji, and notes to oneself that were left."""
    emoji = "[\U0001f300-\U0001faff\u2600-\u2712\u2714-\u27bf\ufe0f]"
    for number, cell in enumerate(read(path)["cells"]):
        at = where(path, number, cell)
        assert not re.search(emoji, cell["source"]), f"{at}: emoji"
        assert not re.search(UNFINISHED, cell["source"]), f"{at}: unfinished"


UNFINISHED = r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b"


@each_notebook
def test_no_prose_in_print(path):
    """2026-11: sentences in print, where Markdown should say it."""
    for number, cell in cells(path):
        for node in ast.walk(ast.parse(code(cell))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                text = getattr(node.args[0], "value", "") if node.args else ""
                prose = isinstance(text, str) and len(text.split()) > 4
                assert not prose, f"{where(path, number, cell)}: prose in print: {text!r}"


# ---- the words

# Each gave readers pause. Words for search engines and native speakers stand beside them.
WORDS = {
    r"mend(?:s|ed|ing)?": "fix",
    r"whoever": "anyone who, those who",
    r"is no number": "is NaN, is infinite",
    r"besides": "as well, beside it",
    r"dear": "costly",
    r"verdicts?": "results, comparison",
    r"epitaphs?": "the reason why a worker ended",
    r"hearsay": "what a header claims",
    r"workbench": "folder",
    r"knows nothing pays": "say what the loss of guessing is",
    r"equal to the bit": "bit for bit",
    r"for want of": "for lack of",
    r"taken up again": "resumed",
}
PAUSE = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.I)


def words_that_gave_pause(text):
    """`{word: what to say}` of the words in a text that readers stumbled on."""
    found = {}
    for word in PAUSE.findall(text):
        (plain,) = [plain for old, plain in WORDS.items() if re.fullmatch(old, word, re.I)]
        found[word] = plain
    return found


def test_words_that_gave_pause_are_recognised():
    """The gate below, tested."""
    found = words_that_gave_pause("The mend is dear; a loss that is no number. Amend, verdict.")
    assert list(found) == ["mend", "dear", "is no number", "verdict"]


@each_notebook
def test_notebooks_use_plain_words(path):
    """2026-11: readers, most of them not native speakers, read such sentences twice."""
    for number, cell in enumerate(read(path)["cells"]):
        found = words_that_gave_pause(cell["source"])
        assert not found, f"{where(path, number, cell)}: {found}"


@each([*TEXTS, *MODULES])
def test_texts_docstrings_and_messages_use_plain_words(path):
    """2026-11: nobody searches for "a loss that is no number"; "loss is NaN" is found."""
    text = path.read_text(encoding="utf-8")
    found = words_that_gave_pause(text)
    assert not found, f"{name_of(path)}: {found}"


# ---- links and tracks


def relative_links(markdown):
    """The relative targets of Markdown's links and pictures, without their anchors."""
    targets = re.findall(r"\]\(\s*([^)\s]+)", without_code(markdown))
    targets += re.findall(r"""\b(?:src|href)=["']([^"']+)""", without_code(markdown))
    elsewhere = ("http:", "https:", "mailto:", "attachment:", "data:", "#")
    return [target.partition("#")[0] for target in targets if not target.startswith(elsewhere)]


@each_notebook
def test_links_in_notebooks_exist(path):
    """2026-11: links to notebooks that had moved."""
    for number, cell in cells(path, "markdown"):
        lost = [
            link for link in relative_links(cell["source"]) if not (path.parent / link).exists()
        ]
        assert not lost, f"{where(path, number, cell)}: {lost}"


@each(TEXTS)
def test_links_in_texts_exist(path):
    """2026-11: the same for README.md and the files beside it."""
    links = relative_links(path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (ROOT / link).exists()]


STEPS = [(lesson, after) for track in TRACKS for lesson, after in zip(track, track[1:])]


@pytest.mark.parametrize("path, after", STEPS, ids=lambda path: name_of(path))
def test_a_lesson_ends_with_the_next_one(path, after):
    """2026-11: "next" named a lesson of another part, and readers were lost."""
    prose = [cell for _, cell in cells(path, "markdown")]
    links = relative_links(prose[-1]["source"])
    targets = {(path.parent / link).resolve() for link in links}
    assert after in targets, f"the last words do not link {name_of(after)}"


def test_the_memory_is_reached_soon():
    """2026-11: 48,700 words stood before the first line of the model."""
    before = [NBS / "index.ipynb"]
    for path in TRACKS[0]:
        if path.stem == "03_memory":
            break
        before.append(path)
    words = sum(
        len(cell["source"].split()) for path in before for _, cell in cells(path, "markdown")
    )
    assert words < 8000


# ---- lessons and the library


@each_lesson
def test_lesson_exports_the_module_of_its_name(path):
    """2026-11: two notebooks with one default_exp overwrite each other's module in silence."""
    names = [
        re.search(r"default_exp\s+(\S+)", cell["source"])[1]
        for _, cell in cells(path)
        if "default_exp" in directives(cell)
    ]
    assert names == [f"{path.parent.name}.{path.stem[3:]}"]
    assert "default_exp" in directives(read(path)["cells"][1]), "the second cell is the default_exp"
    module = LIBRARY / path.parent.name / f"{path.stem[3:]}.py"
    assert module.exists(), "not exported: run `make export`"


def test_numbers_are_unique_within_a_floor():
    """2026-11: two lessons of one number, and an order that nobody decided."""
    numbers = [(path.parent.name, path.stem[:2]) for path in LESSONS]
    assert len(set(numbers)) == len(numbers)


def test_generated_modules_have_their_lesson():
    """2026-11: a module whose notebook is gone: nothing would explain it or write it again."""
    lessons = {f"memdpc/{path.parent.name}/{path.stem[3:]}.py" for path in LESSONS}
    generated = {name_of(path) for path in MODULES if sync.is_generated(path)}
    assert generated == lessons


def dotted(path):
    """A module's name within memdpc: `data.video`."""
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)


NAMES = {dotted(path) for path in MODULES}


def imported(source, package=""):
    """The modules of memdpc that a source imports, at the top, in a function or for types.

    `package` is the folder of the source within memdpc, which relative imports start from.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "memdpc" and target != "memdpc.__version__":
                found.add(module_in(parts[1:]))
    return found


def absolute(node, package):
    """The module that a `from ... import` names, dots resolved."""
    if not node.level:
        return node.module
    above = ["memdpc", *package.split(".")] if package else ["memdpc"]
    base = above[: len(above) - (node.level - 1)]
    return ".".join([*base, *(node.module or "").split(".")]).rstrip(".")


def module_in(parts):
    """The longest module among the parts of a dotted name; the top package is ''."""
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in NAMES:
            return ".".join(parts[:length])
    return ".".join(parts[:1]) if parts[:1] and (LIBRARY / parts[0]).is_dir() else ""


def test_imports_are_recognised():
    """The gates below, tested."""
    source = """
import torch, memdpc.data.video as v
from ..base.errors import ConfigError
from . import model
from .loss import similarity
from memdpc import MemDPC, __version__
from memdpc.data import mishaps
def f():
    from memdpc.cli import main
"""
    assert imported(source, "method") == {
        "data.video", "base.errors", "method.model", "method.loss", "", "data.mishaps", "cli",
    }  # fmt: skip


@each_module
def test_imports_run_downwards(path):
    """2026-11: 27 modules in one folder that imported each other: nothing could be taken alone."""
    module = dotted(path)
    floor = module.split(".")[0]
    targets = imported(path.read_text(encoding="utf-8"), ".".join(module.split(".")[:-1]))
    upwards = {target for target in targets if target.split(".")[0] not in {floor, *FLOORS[floor]}}
    assert not upwards, f"{module} imports {sorted(upwards)}"


@pytest.mark.parametrize("floor", [floor for floor in FLOORS if floor != "cli"])
def test_no_cycle_within_a_floor(floor):
    """2026-11: circular imports, which work until the order of two lines changes."""
    graph = {
        dotted(path): imported(path.read_text(encoding="utf-8"), floor) & NAMES
        for path in MODULES
        if path.parent.name == floor
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


@each_lesson
def test_lesson_imports_only_lower_numbers(path):
    """2026-11: lessons that use what the reader has not met, in exported cells and others."""
    floor = path.parent.name
    numbers = {
        f"{floor}.{other.stem[3:]}": other.stem[:2]
        for other in LESSONS
        if other.parent.name == floor
    }
    for number, cell in cells(path):
        late = {name for name in imported(code(cell)) if numbers.get(name, "00") >= path.stem[:2]}
        assert not late, f"{where(path, number, cell)}: {late}"


@each([*MODULES, LIBRARY / "__init__.py"])
def test_library_imports_only_its_requirements(path):
    """2026-11: a library that needs its development tools, or a package nobody declared."""
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    lines = config["DEFAULT"]["requirements"].splitlines()
    names = {re.match(r"[\w-]+", line.strip())[0] for line in lines if line.strip()}
    names = names - {"scikit-learn"} | {"sklearn"}
    tops = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            tops.add(node.module.split(".")[0])
    assert tops <= set(sys.stdlib_module_names) | {"memdpc"} | names


# ---- the code


@each(PYTHON)
def test_lines_fit_100_columns(path):
    """2026-11: 1,463 lines over 100 columns: code grew sideways, past a gate that counted lines."""
    wide = [
        f"{name_of(path)}:{number}: {len(line)} columns"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert not wide, "\n".join(wide)


@each(PYTHON)
def test_functions_are_short(path):
    """2026-11: functions that no one takes in at a glance; counts statements, not lines."""
    for node in functions(tree_of(path)):
        statements = sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
        assert statements <= 40, f"{node.name}: {statements} statements"


def is_tuple_assignment(node):
    """`a, b = x, y`."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def test_few_tuple_assignments():
    """2026-11: 239 lines that assigned two or three unrelated things at once."""
    counts = {
        name_of(path): sum(map(is_tuple_assignment, ast.walk(tree_of(path)))) for path in MODULES
    }
    assert sum(counts.values()) < 40, {name: count for name, count in counts.items() if count}


def test_the_public_surface_is_small():
    """2026-11: 619 names were public: nothing could change, and completion lists were noise."""
    counts = {name_of(path): len(listed_names(tree_of(path)) or []) for path in MODULES}
    assert sum(counts.values()) < 120, sorted(counts.items(), key=lambda item: -item[1])


@each_module
def test_modules_say_what_is_public(path):
    """2026-11: a module without `__all__` offers its imports as well."""
    tree = tree_of(path)
    assert ast.get_docstring(tree), "no docstring says what the module is for"
    names = listed_names(tree)
    if path.stem.startswith("_"):
        return
    assert names is not None, "no __all__"
    assert not [name for name in names if name.startswith("_")]


def public_functions(tree):
    """The functions of a module, and the methods of its classes, that carry no underscore."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
            found += [(f"{node.name}.{method.name}", method) for method in methods]
    return [
        (name, node)
        for name, node in found
        if not node.name.startswith("_") or node.name == "__init__"
    ]


@each_module
def test_public_functions_are_annotated(path):
    """2026-11: 1.5 % of the arguments had a type: editors and type checkers knew nothing."""
    missing = []
    for name, node in public_functions(tree_of(path)):
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        missing += [
            f"{name}({argument.arg})"
            for argument in arguments
            if argument and argument.annotation is None and argument.arg not in ("self", "cls")
        ]
        if node.returns is None and node.name != "__init__":
            missing.append(f"{name} ->")
    assert not missing, ", ".join(missing)


@each_module
def test_public_functions_and_classes_are_documented(path):
    """2026-11: public functions without a line that says what they do."""
    for node in tree_of(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            assert text.strip(), f"{node.name} has no docstring"


NOT_EVERYWHERE = {"fcntl", "resource", "pwd", "grp", "termios", "msvcrt", "winreg"}


@each([*MODULES, LIBRARY / "__init__.py", LIBRARY / "__main__.py"])
def test_imports_on_windows_and_macos(path):
    """2026-11: `import fcntl` at the top: on Windows nothing but the model could be imported."""
    found = set()
    for node in tree_of(path).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    assert not found & NOT_EVERYWHERE, "import it in a try, or where it is used"


def test_files_hold_no_machine_paths_and_nothing_unfinished():
    """2026-11: the two defects of notebooks, in the library and in the files beside it."""
    top = [
        ROOT / name
        for name in (
            "Makefile",
            "settings.ini",
            "setup.py",
            "pyproject.toml",
            "environment.yml",
            "constraints.txt",
            "CITATION.cff",
        )
    ]
    tests = sorted((ROOT / "tests").rglob("*.py"))
    for path in [*MODULES, *TEXTS, *top, *tests]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(UNFINISHED, text), name_of(path)
        if path not in tests:
            assert not machine_paths(re.sub(r"^#!.*", "", text)), name_of(path)


# ---- run notebooks and guides


@each([*RUNS, *GUIDES])
def test_runs_and_guides_export_nothing(path):
    """2026-11: a run that changes the library."""
    exporting = [
        number
        for number, cell in cells(path)
        if "default_exp" in directives(cell) or is_exported(cell)
    ]
    assert not exporting


@each_run
def test_run_notebook_has_one_parameters_cell_of_literals(path):
    """2026-11: without the tag papermill injects at the top, and the defaults win in silence.

    An expression cannot be overridden, and a parameter without a comment cannot be understood.
    """
    tagged = [cell for _, cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = tagged[0]["source"].splitlines()
    for node in ast.parse(tagged[0]["source"]).body:
        assert isinstance(node, (ast.Assign, ast.AnnAssign)), ast.unparse(node)
        ast.literal_eval(node.value)
        beside = any("#" in line for line in lines[node.lineno - 1 : node.end_lineno])
        above = node.lineno > 1 and lines[node.lineno - 2].startswith("#")
        assert beside or above, f"{ast.unparse(node)}: no comment"


@each([NBS / "index.ipynb", *LESSONS, *GUIDES])
def test_lessons_have_no_parameters(path):
    """2026-11: papermill's tag where nothing is run by papermill."""
    tags = [cell["metadata"].get("tags", []) for _, cell in cells(path)]
    assert not [number for number, names in enumerate(tags) if "parameters" in names]


def test_nbdev_test_leaves_the_runs_out():
    """2026-11: a minute for each run notebook, twice: tests/ runs them through papermill."""
    assert (NBS / "runs/.notest").exists()


# ---- what importing costs


def loaded_after(source):
    """The top-level modules that are loaded after a source has run in a new process."""
    source += "\nimport sys; print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


# Augmentation runs on the device, so its module is torch's.
WITH_TORCH = {"data.augment"}


def test_no_torch_in_base_and_in_the_data_path():
    """2026-11: three seconds and a gigabyte for every worker process and every `memdpc scan`."""
    names = [
        name
        for name in sorted(NAMES - WITH_TORCH)
        if name.startswith(("base.", "data.")) or name == "cli"
    ]
    source = "\n".join(f"import memdpc.{name}" for name in names)
    assert "torch" not in loaded_after(source)


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}: raise ImportError(f"refused: {{name}}")
sys.meta_path.insert(0, Refuse())
"""


def test_the_method_needs_no_video_and_no_pictures():
    """2026-11: the model could not be imported without PyAV, for the sake of an exception."""
    names = sorted(name for name in NAMES if name.startswith("method."))
    refused = {"av", "matplotlib", "seaborn", "sklearn", "scipy", "accelerate", "tyro", "pebble"}
    imports = "\n".join(f"import memdpc.{name}" for name in names)
    loaded_after(REFUSE.format(refused=refused) + imports)


@pytest.mark.parametrize(
    "words", [["--help"], ["shapes", "--help"], ["pretrain", "--help"], ["show"]]
)
def test_no_torch_for_help(words):
    """2026-11: three seconds before a line of help."""
    source = f"""
import runpy, sys
sys.argv = ["memdpc", *{words}]
try: runpy.run_module("memdpc", run_name="__main__")
except SystemExit as stop: assert stop.code in (None, 0, 2), stop.code
"""
    assert "torch" not in loaded_after(source)


# ---- the sync check itself

LESSON = [
    ("markdown", "# Small\n\n> A lesson for the test."),
    ("code", "#| default_exp method.small"),
    ("code", "#| export\ndef double(x):\n    'Twice x.'\n    return 2 * x"),
    ("code", "double(2)"),
]
SMALL = "memdpc/method/small.py"
SMALL_LESSON = "nbs/method/01_small.ipynb"


def write_notebook(path, parts, **metadata):
    """A notebook as Jupyter saves it: with counts, a language_info and metadata to be cleaned."""
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


def check_sync(project):
    """The sync check on a project: exit status, and what it printed."""
    command = [sys.executable, ROOT / ".ci/sync.py", project]
    done = subprocess.run(command, text=True, capture_output=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    """A small project with the repository's settings, one lesson and one run, exported."""
    for folder in ("nbs/method", "nbs/runs", "memdpc/method"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    # The lazy surface is plain code below the version that nbdev writes.
    shutil.copy2(LIBRARY / "__init__.py", tmp_path / "memdpc")
    write_notebook(tmp_path / SMALL_LESSON, LESSON)
    write_notebook(
        tmp_path / "nbs/runs/run.ipynb",
        [("markdown", "# Run\n\n> A run."), ("code", "epochs = 1  # passes")],
        tags=["parameters"],
        collapsed=True,
        papermill={"duration": 1},
    )
    sync.regenerate(tmp_path)
    return tmp_path


def test_cleaning_keeps_what_papermill_needs(project):
    """2026-11: nbdev_clean removed the `parameters` tag, and the defaults won in silence."""
    notebook = read(project / "nbs/runs/run.ipynb")
    spec = {"display_name": "python3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": spec}
    assert all(cell["metadata"] == {"tags": ["parameters"]} for cell in notebook["cells"])
    assert notebook["cells"][1]["execution_count"] is None


def test_exporting_writes_the_module_and_keeps_the_surface(project):
    """2026-11: put_version_in_init rewrites memdpc/__init__.py; all but the version must stay."""
    files = {path.relative_to(project).as_posix() for path in (project / "memdpc").rglob("*.py")}
    package = {"memdpc/__init__.py", "memdpc/_modidx.py", "memdpc/method/__init__.py"}
    assert files == package | {SMALL}
    before = (LIBRARY / "__init__.py").read_bytes()
    assert (project / "memdpc/__init__.py").read_bytes() == before


def edit(path, old, new):
    """Replace a text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def leave_behind(project):
    shutil.copy2(project / SMALL, project / "memdpc/method/gone.py")


TAMPERED = {
    "the library edited": (lambda project: edit(project / SMALL, "2 * x", "3 * x"), SMALL),
    "the library not formatted": (lambda project: edit(project / SMALL, "2 * x", "2*x"), SMALL),
    "the notebook edited": (lambda project: edit(project / SMALL_LESSON, "2 * x", "x + x"), SMALL),
    "a module missing": (lambda project: (project / SMALL).unlink(), f"{SMALL}: not there"),
    "a module left behind": (leave_behind, "memdpc/method/gone.py: no notebook exports it"),
    "the index old": (
        lambda project: edit(project / "memdpc/_modidx.py", "double", "triple"),
        "memdpc/_modidx.py",
    ),
    "a notebook not cleaned": (
        lambda project: edit(
            project / SMALL_LESSON, '"execution_count": null', '"execution_count": 7'
        ),
        "01_small",
    ),
    "a notebook broken": (
        lambda project: edit(project / SMALL_LESSON, '"cells": [', '"cells": [['),
        "failed",
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_sync_finds(kind, project, monkeypatch):
    """2026-11: a notebook and the library that disagree.

    Where IN_TEST is set nbdev exports nothing, and the check would pass on anything.
    """
    monkeypatch.setenv("IN_TEST", "1")
    tamper, expected = TAMPERED[kind]
    tamper(project)
    status, text = check_sync(project)
    assert status == 1 and expected in text, text


def state(project):
    """Every file of a project, with its time of change."""
    files = [path for path in project.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_sync_passes_and_touches_nothing(project):
    """2026-11: a check that repaired what it was to report."""
    before = state(project)
    status, text = check_sync(project)
    assert status == 0, text
    assert state(project) == before


def test_sync_finds_a_change_in_this_library(tmp_path):
    """2026-11: the same on a copy of the repository itself."""
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    leave_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("nbs", "memdpc"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave_out)
    path = tmp_path / "memdpc/method/memory.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("return ", "return  ", 1), encoding="utf-8")
    status, text = check_sync(tmp_path)
    assert status == 1 and "memdpc/method/memory.py" in text
