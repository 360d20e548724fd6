"""The exercises of the lessons: their form, and that every solution passes its check.

`make test` executes the lessons with open stubs.
"""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / ".ci"))
from execute import client_for  # noqa: E402

LESSONS = sorted((ROOT / "nbs").glob("*/[0-9][0-9]_*.ipynb"))
SOLUTION = re.compile(r"<details>.*?^```python\n(.*?)^```", re.M | re.S)
MARK = re.compile(r"^\s*#\s*(exercise|check)\s+(\d+)\b", re.M)


def mark(cell):
    """('exercise' or 'check', number) of a code cell that begins with such a comment, else None."""
    found = MARK.match(cell.source) if cell.cell_type == "code" else None
    return found and (found[1], int(found[2]))


def exercises(notebook):
    """`{number: (stub, solution, check)}`; an assertion names what is not of this form."""
    marks = [(position, *mark(cell)) for position, cell in enumerate(notebook.cells) if mark(cell)]
    found = {}
    for stub, check in zip(marks[::2], marks[1::2], strict=True):
        start, kind, number = stub
        end, kind_after, number_after = check
        assert (kind, kind_after) == ("exercise", "check") and number == number_after, (
            f"after `# {kind} {number}` comes `# {kind_after} {number_after}`"
        )
        solutions = folded_programs(notebook.cells[start + 1 : end])
        assert len(solutions) == 1, (
            f"exercise {number}: {len(solutions)} solutions between stub and check"
        )
        task = rf"^\*\*{number}\. "
        tasks = [cell for cell in notebook.cells[:start] if re.search(task, cell.source, re.M)]
        assert tasks and number not in found, (
            f"exercise {number}: no task `**{number}. ...`, or two"
        )
        found[number] = notebook.cells[start], solutions[0], notebook.cells[end]
    return found


def folded_programs(cells):
    """The programs that Markdown cells fold away."""
    return [
        block
        for cell in cells
        if cell.cell_type == "markdown"
        for block in SOLUTION.findall(cell.source)
    ]


def shown(cell):
    """The value that a cell ended in."""
    return [
        ast.literal_eval(output.data["text/plain"])
        for output in cell.outputs
        if output.output_type == "execute_result"
    ][-1:]


def solved(notebook, path):
    """Put every solution into the place of its stub, execute all, and give what the checks say."""
    found = exercises(notebook)
    for stub, solution, _ in found.values():
        stub.source = solution
    client_for(notebook, path, timeout=600).execute()
    return {number: shown(check) for number, (_, _, check) in found.items()}


WITH_EXERCISES = [
    path for path in LESSONS if any(map(mark, nbformat.read(path, as_version=4).cells))
]
each = pytest.mark.parametrize(
    "path", WITH_EXERCISES, ids=lambda path: f"{path.parent.name}-{path.stem}"
)


@each
def test_exercises_have_their_form_and_are_committed_open(path):
    """2026-11: a stub that held the answer, so that its check passed before anything was solved."""
    for number, (stub, solution, check) in exercises(nbformat.read(path, as_version=4)).items():
        ast.parse(solution)
        assert solution.strip() not in stub.source
        assert shown(check) == ["open"], f"exercise {number}: {shown(check)}"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_folded_program_is_the_solution_of_an_exercise(path):
    """2026-11: an exercise without its `# exercise N`, which the test below would pass over."""
    notebook = nbformat.read(path, as_version=4)
    folded = folded_programs(notebook.cells)
    assert folded == [solution for _, solution, _ in exercises(notebook).values()]


@pytest.mark.slow
@each
def test_solutions_are_right(path):
    """2026-11: a solution folded away in Markdown that had never run."""
    answers = solved(nbformat.read(path, as_version=4), path)
    assert answers == dict.fromkeys(answers, ["right"])


CHECK = """# check 1
answer = double(2)
if answer is not None:
    assert answer == 4
'open' if answer is None else 'right'"""


def lesson(solution):
    """A small lesson with one exercise, and this as its folded solution."""
    code = nbformat.v4.new_code_cell
    markdown = nbformat.v4.new_markdown_cell
    folded = f"<details><summary>Solution</summary>\n\n```python\n{solution}\n```\n</details>"
    return nbformat.v4.new_notebook(
        cells=[
            markdown("## Exercises\n\n**1. Twice.** Double x."),
            code("# exercise 1\ndef double(x):\n    ...  # your turn"),
            markdown(folded),
            code(CHECK),
        ]
    )


@pytest.mark.slow
def test_a_solution_that_is_wrong_or_gives_nothing_is_noticed(tmp_path):
    """The test above, tested."""
    path = tmp_path / "lesson.ipynb"
    assert solved(lesson("double = lambda x: 2 * x"), path) == {1: ["right"]}
    assert solved(lesson("double = lambda x: None"), path) == {1: ["open"]}
    with pytest.raises(Exception, match="AssertionError"):
        solved(lesson("double = lambda x: x"), path)
    without = [cell for cell in lesson("pass").cells if "<details>" not in cell.source]
    with pytest.raises(AssertionError, match="0 solutions"):
        exercises(nbformat.v4.new_notebook(cells=without))
