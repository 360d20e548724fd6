"""What is in a dataset's files, before anything is trained on them"""

import csv
import io
import sys
from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median

from memdpc.base.config import ScanConfig
from memdpc.base.errors import DatasetError, printable
from memdpc.base.files import write_bytes
from memdpc.data.clips import is_short, span
from memdpc.data.index import Index, examine, info_from
from memdpc.data.layouts import SPLITS, below, list_dataset


def list_parts(name, root):
    "`({part: Listing}, {part: complaint})` of a dataset's splits, named `1 train`; raises `DatasetError` where none can be listed"
    found, refused = {}, {}
    for split in range(1, SPLITS.get(name, 1) + 1):
        for subset in ("train", "test")[: 1 if name == "folder" else 2]:
            try:
                found[f"{split} {subset}"] = list_dataset(name, root, split, subset)
            except DatasetError as error:
                refused[f"{split} {subset}"] = error
    if not found:
        raise next(iter(refused.values()))
    return found, refused


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
    "damage",
    "bytes",
    "label",
    "class",
    "group",
    "splits",
]


def row_of(config, path, entry):
    "What the index's `entry` tells of a file, as a row: a dict with some of `COLUMNS`"
    size = {"bytes": entry["stamp"][0]} if "stamp" in entry else {}
    if "reason" in entry:
        return {"path": path, "status": "broken", "reason": entry["reason"]} | size
    info = info_from(entry["info"])
    facts = {name: getattr(info, name) for name in ("frames", "width", "height", "codec", "damage")}
    return {
        "path": path,
        "status": "short" if is_short(config, info) else "ok",
        **facts,
        "fps": round(info.fps, 3),
        "seconds": round(info.duration, 3),
    } | size


def rows_of(config, parts, index):
    "Rows for the files that the lists of `parts` name, each once, then for those missing and unlisted"
    places, others = {}, {}  # {path: [(part, Listed, class)]}, {path: {reason: [parts]}}
    for part, (classes, listed, missing) in parts.items():
        for entry in listed:
            places.setdefault(entry.path, []).append(
                (part, entry, classes[entry.label] if entry.label >= 0 else "")
            )
        for path, reason in missing:
            others.setdefault(path, {}).setdefault(reason, []).append(part)
    for path, named in places.items():
        _, entry, class_name = named[0]
        row = row_of(config, path, index.get(path)) | {
            "label": entry.label,
            "class": class_name,
            "group": entry.group,
            "splits": [part for part, *_ in named],
        }
        if "is listed twice" in others.get(path, ()):
            row["reason"] = "; ".join(filter(None, [row.get("reason"), "is listed twice"]))
        yield row
    for path, reasons in others.items():
        if path in places:
            continue
        row = {"path": path, "reason": "; ".join(reasons)}
        absent = "no such file" in reasons  # and not: there, or said of no video of these lists
        yield row | (
            {"status": "missing", "splits": sum(reasons.values(), [])}
            if absent
            else {"status": "unlisted", "splits": []}
        )
    for path in below(config.root):
        if path not in places and path not in others:
            yield {"path": path, "status": "unlisted", "reason": "is in no list", "splits": []}


@dataclass
class Report:
    "What a scan found; its text is the report"

    config: ScanConfig
    table: Path  # scan.csv
    refused: dict  # {part: why it has no list}
    counts: dict = field(
        default_factory=dict
    )  # {part: Counter of statuses}; part '' is all of them
    reasons: dict = field(default_factory=dict)  # {(status, reason): [number, an example]}
    kinds: dict = field(
        default_factory=lambda: {name: Counter() for name in ("size", "rate", "codec")}
    )
    frames: array = field(default_factory=lambda: array("q"))
    totals: Counter = field(default_factory=Counter)  # seconds, bytes, and damaged videos

    def add(self, row):
        "Count a row"
        for part in ("", *row["splits"]):
            self.counts.setdefault(part, Counter())[row["status"]] += 1
        if "reason" in row:
            self.reasons.setdefault((row["status"], row["reason"]), [0, row["path"]])[0] += 1
        self.totals["bytes"] += row.get("bytes", 0)
        if "frames" not in row:
            return
        self.frames.append(row["frames"])
        self.totals.update(seconds=row["seconds"], damaged=row["damage"] > 0)
        for name, value in (
            ("size", f"{row['width']}x{row['height']}"),
            ("rate", f"{row['fps']:.4g}"),
            ("codec", row["codec"]),
        ):
            self.kinds[name][value] += 1

    def __str__(self):
        return "\n".join(
            printable(line).rstrip()
            for line in (*part_lines(self), *reason_lines(self), *kind_lines(self))
        )


def part_lines(report):
    "Lines of a report: how many files each part lists, and what became of them"
    yield f"{report.config.dataset} in {report.config.root}"
    yield f"{'split':10}{'listed':>10}{'readable':>10}{'short':>10}{'broken':>10}{'missing':>10}"
    for part, counts in sorted(report.counts.items(), key=lambda item: (not item[0], item[0])):
        ok, short, broken, missing = (counts[name] for name in ("ok", "short", "broken", "missing"))
        yield f"{part or 'all':10}{ok + short + broken + missing:10}{ok + short:10}{short:10}{broken:10}{missing:10}"
    for part, error in report.refused.items():
        yield f"{part:10}{error}"


def reason_lines(report, most=20):
    "Lines of a report: why files are not used, the most frequent reason first, each with an example"
    for status in "broken", "missing", "unlisted", "short", "ok":
        found = sorted(
            (
                (number, reason, path)
                for (kind, reason), (number, path) in report.reasons.items()
                if kind == status
            ),
            reverse=True,
        )
        if found:
            yield f"{status}, with an example of each"
        for number, reason, path in found[:most]:
            yield f"{number:8}  {reason}: {path}"
        if len(found) > most:
            yield f"{sum(number for number, *_ in found[most:]):8}  for {len(found) - most} other reasons: see the table"


def kind_lines(report, most=6):
    "Lines of a report: what the readable videos are"
    if report.frames:
        yield "readable videos (value: how many have it)"
        unit = "seconds" if report.config.time_stride else "frames"
        low, middle, high = min(report.frames), median(report.frames), max(report.frames)
        yield f"  frames  {low} to {high}, median {middle:g}; a clip spans {span(report.config):g} {unit}; in short ones the last frame is repeated"
        yield f"  length  {timedelta(seconds=round(report.totals['seconds']))} (hours, minutes, seconds)"
        if report.totals["damaged"]:
            yield f"  damage  the decoder complains of {report.totals['damaged']}; the pictures that it gives are used"
        for name, counts in report.kinds.items():
            rest = len(counts) - most
            yield (
                f"  {name:8}"
                + ", ".join(f"{value}: {n}" for value, n in counts.most_common(most))
                + (f", and {rest} more" if rest > 0 else "")
            )
    yield f"on disk {report.totals['bytes'] / 1e6:,.1f} MB"
    yield f"table   {report.table}"


def scan(config: ScanConfig):
    """`memdpc scan`: open every file that a dataset lists, once; the `Report`, whose `table` has a row for each file.

    Raises `DatasetError` where the layout is not the dataset's, or a worker was killed. Started again, it goes on where it was stopped.
    """
    parts, refused = list_parts(config.dataset, config.root)
    table = (
        Path(config.out) if config.out else Index(config.root).file.with_suffix("")
    ) / "scan.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    index = examine(
        config.root,
        (entry.path for listing in parts.values() for entry in listing.listed),
        config.num_workers,
        sys.stderr.isatty(),
        config.time_limit,
    )
    report, data = Report(config, table, refused), io.BytesIO()
    with io.TextIOWrapper(data, "utf-8", "surrogateescape", newline="") as text:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows_of(config, parts, index):
            report.add(row)
            writer.writerow(row | {"splits": "; ".join(row["splits"])})
        text.flush()
        write_bytes(table, data.getvalue())
    return report
