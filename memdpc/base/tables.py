"""Results as tables of plain text, and names in tables that a spreadsheet may open.

A spreadsheet takes a cell that begins with `=` for a formula, which can read other files and send
them away. So a path that begins so is written with `./` before it, which names the same file, and
another text with an apostrophe, as spreadsheets do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from memdpc.base.errors import printable

_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four: = + - @ in full width


def path_cell(path: str) -> str:
    """A relative path as a table holds it."""
    return "./" + path if path.startswith(_FORMULA) else path


def path_in(cell: str) -> str:
    """The path that `path_cell` made a cell of."""
    return cell[2:] if cell.startswith("./") and cell[2:].startswith(_FORMULA) else cell


def text_cell(value: object) -> object:
    """A name or a reason as a table holds it; numbers stay."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


# ---- results as text


def results_text(results: Mapping[str, Any]) -> str:
    """A job's results as it returns them: single values first, then a table for each group.

    Shares (accuracy, R@k) have three decimals, baselines stand in the rows below the network.
    """
    plain = {name: value for name, value in results.items() if not _is_group(value)}
    parts = [*_aligned(plain.items())]
    for name, value in results.items():
        if _is_group(value):
            parts += ["", name, *_group_lines(value)]
    return "\n".join(printable(line.rstrip()) for line in parts).strip("\n")


def _is_group(value: Any) -> bool:
    """A dict, or rows of a table; any other list is a value."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(row, Mapping) and row for row in value)
    return isinstance(value, Mapping)


def _group_lines(group: Any) -> Iterator[str]:
    if isinstance(group, Mapping) and not any(isinstance(row, Mapping) for row in group.values()):
        return _aligned(group.items(), "  ")
    if isinstance(group, Mapping):
        rows = [_as_row(row) | {"": name} for name, row in group.items()]
    else:
        rows = [dict(row) for row in group]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=lambda column: column != "")  # the rows' names stand first
    lines = [columns, *([row.get(column) for column in columns] for row in rows)]
    return _in_columns([[shown(cell) for cell in line] for line in lines])


def _as_row(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {"value": value}


def _aligned(pairs: Iterable[tuple[str, Any]], before: str = "") -> Iterator[str]:
    """Names and values, a line each."""
    for name, value in pairs:
        yield f"{before + printable(name):32} {shown(value)}"


def _in_columns(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells, each column as wide as its widest; the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"  {first:{widths[0]}}", *cells])


def shown(value: Any) -> str:
    """A value in a table: three decimals of a number, two digits of a tiny one; '' for None."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return printable(value)
    is_tiny = 0 < abs(value) < 0.001
    return f"{value:.1e}" if is_tiny else f"{value:.3f}"


__all__ = []
