"""What is in a dataset's files, before anything is trained on them: `memdpc scan`.

Four questions decide what becomes of a file: does a list of the dataset name it, is it there, do
pictures come out of it, and are they enough for a clip? The last two take a decoder, and the whole
file (`memdpc.data.index`).

| status | of a file | a training run |
|---|---|---|
| ok | that a clip fits into | uses it |
| short | with fewer frames than a clip spans | uses it, and repeats the last frame |
| broken | out of which no picture comes, or that takes too long | leaves it out, and says so |
| missing | that a list names, and that is not there | goes without it |
| unlisted | that is there, and that no list names | does not look at it |

A clip of N blocks of T frames at a stride of s frames spans (NT - 1)s + 1 of them: 118 for the
paper's 8, 5 and 3. With a stride in seconds the span is one of time.
"""

import csv
import io
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from memdpc.base.config import ScanConfig
from memdpc.base.errors import DatasetError, printable
from memdpc.base.files import output_folder, write_bytes
from memdpc.base.tables import path_cell, text_cell
from memdpc.base.terminal import on_terminal
from memdpc.data.clips import is_short, span
from memdpc.data.guard import Entry
from memdpc.data.index import Index, examine
from memdpc.data.layouts import Listed, Listing, describe_renamed, list_parts, video_paths
from memdpc.data.layouts.listing import ABSENT, UNCLEAR

Row = dict[str, Any]  # some of COLUMNS; `splits` is a list of names of parts
Parts = dict[str, Listing]  # by names such as `1 train`

COLUMNS = [
    "path",
    "status",
    "reason",
    "frames",
    "width",
    "height",
    "fps",
    "seconds",
    "codec",
    "stream",
    "damage",
    "bytes",
    "label",
    "class",
    "group",
    "splits",
    "listed_as",
]
_TWICE = "is listed twice"
_ORDER = ("broken", "missing", "unlisted", "short", "ok")  # of the reasons in a report


def scan(config: ScanConfig) -> "Report":
    """Open every file that a dataset lists, once; the `Report`, with a table of all files.

    Raises `DatasetError` where the layout is not the dataset's, or a worker was killed. Started
    again, it goes on where it was stopped. The table is written whole or not at all, and file names
    go into it as they are on the disk, byte for byte, UTF-8 or not; one that a spreadsheet would
    take for a formula gets `./` before it.
    """
    table = _table_path(config)
    output_folder(table.parent, table.name)
    parts, refused = list_parts(config.dataset, config.root)
    index = examine(
        config.root,
        (entry.path for listing in parts.values() for entry in listing.listed),
        config.num_workers,
        on_terminal(),
        config.time_limit,
        config.again,
    )
    report = Report(config, table, refused, tuple(_remarks(parts)))
    data = io.BytesIO()
    with io.TextIOWrapper(data, "utf-8", "surrogateescape", newline="") as text:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in _rows_of(config, parts, index):
            report.add(row)
            writer.writerow(_cells(row))
        text.flush()
        write_bytes(table, data.getvalue())
    return report


def _cells(row: Row) -> dict[str, object]:
    """A row as the table holds it."""
    texts = {name: text_cell(value) for name, value in row.items()}
    return texts | {"path": path_cell(row["path"]), "splits": "; ".join(row["splits"])}


def _table_path(config: ScanConfig) -> Path:
    """scan.csv in the folder that the config names, else beside the index."""
    folder = Path(config.out) if config.out else Index(config.root).file.with_suffix("")
    return folder / "scan.csv"


def _remarks(parts: Parts) -> Iterator[str]:
    """What there is to say of the names in the lists."""
    renamed = _renamed(parts)
    if renamed:
        count = len({entry.path for listing in parts.values() for entry in listing.listed})
        yield describe_renamed([(name, path) for path, name in renamed.items()], count)
    yield from dict.fromkeys(listing.hint for listing in parts.values() if listing.hint)


def _renamed(parts: Parts) -> dict[str, str]:
    """{path: the other name that it has in a list}."""
    return {path: name for listing in parts.values() for name, path in listing.renamed}


# ---- a row for each file


def _rows_of(
    config: ScanConfig,
    parts: Parts,
    index: Index,
) -> Iterator[Row]:
    """Rows for the listed files, each once, then for those missing and unlisted."""
    reasons = _reasons_by_path(parts)
    renamed = _renamed(parts)
    listed: set[str] = set()
    for path, row in _listed_rows(config, parts, index):
        if _TWICE in reasons.get(path, ()):
            row["reason"] = f"{row['reason']}; {_TWICE}" if "reason" in row else _TWICE
        if path in renamed:
            row["listed_as"] = renamed[path]
        listed.add(path)
        yield row
    for path, found in reasons.items():
        if path not in listed:
            yield _unused_row(path, found)
    for path in video_paths(config.root):
        if path not in listed and path not in reasons:
            yield _unused_row(path, {"is in no list": []})


def _reasons_by_path(parts: Parts) -> dict[str, dict[str, list[str]]]:
    """{path: {reason: names of parts}} of all that is missing or left over in some part."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for part, listing in parts.items():
        for path, reason in listing.missing:
            reasons.setdefault(path, {}).setdefault(reason, []).append(part)
    return reasons


def _listed_rows(
    config: ScanConfig,
    parts: Parts,
    index: Index,
) -> Iterator[tuple[str, Row]]:
    """(path, row) of each listed file; a file may be named by several parts."""
    places: dict[str, list[str]] = {}
    first: dict[str, tuple[Listed, str]] = {}
    for part, listing in parts.items():
        for entry in listing.listed:
            places.setdefault(entry.path, []).append(part)
            class_name = listing.classes[entry.label] if entry.label >= 0 else ""
            first.setdefault(entry.path, (entry, class_name))
    for path, (entry, class_name) in first.items():
        row = _file_row(config, path, index.get(path) or {"reason": "was not opened"})
        row["label"] = entry.label
        row["class"] = class_name
        row["group"] = entry.group
        row["splits"] = places[path]
        yield path, row


def _file_row(
    config: ScanConfig,
    path: str,
    entry: Entry,
) -> Row:
    """What the index's entry tells of a file."""
    row: Row = {"path": path}
    if "stamp" in entry:
        row["bytes"] = entry["stamp"][0]
    if "reason" in entry:
        return row | {"status": "broken", "reason": entry["reason"]}
    info = entry["info"]
    for name in ("frames", "width", "height", "codec", "stream", "damage"):
        row[name] = getattr(info, name)
    row["fps"] = round(info.fps, 3)
    row["seconds"] = round(info.duration, 3)
    row["status"] = "short" if is_short(config, info) else "ok"
    return row


def _unused_row(
    path: str,
    reasons: dict[str, list[str]],
) -> Row:
    """A file that is not there, or that is there and in no list."""
    row: Row = {"path": path, "reason": "; ".join(reasons)}
    if ABSENT in reasons or UNCLEAR in reasons:
        row["status"] = "missing"
        row["splits"] = [part for parts in reasons.values() for part in parts]
    else:
        row["status"] = "unlisted"
        row["splits"] = []
    return row


# ---- the report


def _empty_kinds() -> dict[str, Counter]:
    return {name: Counter() for name in ("size", "rate", "codec")}


@dataclass
class Report:
    """What a scan found; its text is the report."""

    config: ScanConfig
    table: Path  # scan.csv
    refused: dict[str, DatasetError]  # {part: why it has no list}
    remarks: tuple[str, ...] = ()  # on the names in the lists
    counts: dict[str, Counter] = field(default_factory=dict)  # statuses by part; '': of all files
    # {(status, reason): [how many, an example]}
    reasons: dict[tuple[str, str], list] = field(default_factory=dict)
    kinds: dict[str, Counter] = field(default_factory=_empty_kinds)
    frames: array = field(default_factory=lambda: array("q"))  # of each video, for the median
    totals: Counter = field(default_factory=Counter)  # seconds, bytes, and damaged videos

    def add(self, row: Row) -> None:
        """Count a row."""
        for part in ("", *row["splits"]):
            self.counts.setdefault(part, Counter())[row["status"]] += 1
        if "reason" in row:
            example = [0, row["path"]]
            self.reasons.setdefault((row["status"], row["reason"]), example)[0] += 1
        self.totals["bytes"] += row.get("bytes", 0)
        if "frames" not in row:
            return
        self.frames.append(row["frames"])
        self.totals["seconds"] += row["seconds"]
        self.totals["damaged"] += row["damage"] > 0
        self.kinds["size"][f"{row['width']}x{row['height']}"] += 1
        self.kinds["rate"][f"{row['fps']:.4g}"] += 1
        self.kinds["codec"][row["codec"]] += 1

    def __str__(self) -> str:
        lines = [*_part_lines(self), *_reason_lines(self), *self.remarks, *_kind_lines(self)]
        return "\n".join(printable(line).rstrip() for line in lines)


def _part_lines(report: Report) -> Iterator[str]:
    """How many files each part lists, and what became of them."""
    yield f"{report.config.dataset} in {report.config.root}"
    yield _part_line("split", ("listed", "readable", "short", "broken", "missing"))
    for part in sorted(report.counts, key=lambda part: (not part, part)):
        counts = report.counts[part]
        readable = counts["ok"] + counts["short"]
        listed = readable + counts["broken"] + counts["missing"]
        values = (listed, readable, counts["short"], counts["broken"], counts["missing"])
        yield _part_line(part or "all", values)
    for part, error in report.refused.items():
        yield f"{part:10}{error}"


def _part_line(
    name: str,
    values: Iterable[object],
) -> str:
    return f"{name:10}" + "".join(f"{value:>10}" for value in values)


def _reason_lines(
    report: Report,
    most: int = 20,
) -> Iterator[str]:
    """Why files are not used, the most frequent reason first, each with an example."""
    for status in _ORDER:
        found: list[tuple[int, str, str]] = []
        for (kind, reason), (count, path) in report.reasons.items():
            if kind == status:
                found.append((count, reason, path))
        found.sort(reverse=True)
        if found:
            yield f"{status}, with an example of each"
        for count, reason, path in found[:most]:
            yield f"{count:8}  {reason}: {path}"
        if len(found) > most:
            rest = sum(count for count, *_ in found[most:])
            yield f"{rest:8}  for {len(found) - most} other reasons: see the table"


def _kind_lines(
    report: Report,
    most: int = 6,
) -> Iterator[str]:
    """What the readable videos are."""
    if report.frames:
        yield "readable videos (value: how many have it)"
        yield _frames_line(report)
        yield f"  length  {_length(report.totals['seconds'])} (hours, minutes, seconds)"
        damaged = report.totals["damaged"]
        if damaged:
            used = "the pictures that it gives are used"
            yield f"  damage  the decoder complains of {damaged}; {used}"
        for name, counts in report.kinds.items():
            values = ", ".join(f"{value}: {count}" for value, count in counts.most_common(most))
            rest = len(counts) - most
            yield f"  {name:8}{values}" + (f", and {rest} more" if rest > 0 else "")
    yield f"on disk {report.totals['bytes'] / 1e6:,.1f} MB"
    yield f"table   {report.table}"


def _length(seconds: float) -> str:
    """12:34:56; of any length, for files lie about theirs."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _frames_line(report: Report) -> str:
    low = min(report.frames)
    high = max(report.frames)
    middle = median(report.frames)
    unit = "seconds" if report.config.time_stride else "frames"
    clip = f"a clip spans {span(report.config):g} {unit}; in short ones the last frame is repeated"
    return f"  frames  {low} to {high}, median {middle:g}; {clip}"


__all__ = ["scan"]
