"""Any content of the datasets' own lists: a listing, or one line; no traceback, no wait."""

import csv
import io
import json
import os
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import FAILS, LAYOUTS, NAMES, build, plant, refused, table, texts, ucf101

from memdpc.base.errors import MemdpcError
from memdpc.data.layouts import annotation_files, list_dataset
from memdpc.data.layouts.listing import quoted, to_number

LISTED = [name for name in LAYOUTS if name != "folder"]
LONG = 10**5


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """`lasting(name)`: a tree that all examples share, and its lists as they are."""

    @cache
    def plant_once(name):
        root = build(name, tmp_path_factory.mktemp(name) / "it")
        return root, {file: (root / file).read_bytes() for file in annotation_files(name, root)}

    return plant_once


def check_list(tree, dataset, file, data):
    """A dataset with these bytes in one of its lists is listed, or refused in one line."""
    root, good = tree
    path = root / file
    path.write_bytes(data)
    try:
        for subset in "train", "test":
            try:
                found = list_dataset(dataset, root, subset=subset)
            except MemdpcError as error:
                text = str(error)
                assert "\n" not in text
                assert text.encode()
                assert len(text) < 10_000
                continue
            assert all((root / entry.path).is_file() for entry in found.listed)
            for name, _ in found.missing:
                os.fsencode(name)  # can go into a table
    finally:
        path.write_bytes(good[file])


words = [
    *(
        "path",
        "label",
        "group",
        "youtube_id",
        "time_start",
        "time_end",
        "split",
        "t",
        "run",
        "1",
        "2",
    ),
    *(
        "nan",
        "inf",
        "1e999",
        "-1",
        "9" * 5000,
        "9" * 12,
        "²",
        "٣",
        "..",
        "/",
        "~",
        "a/../b",
        ".hidden",
    ),
    *(
        '"',
        '""',
        ",",
        ";",
        "\t",
        " ",
        "\r",
        "\r\n",
        "\n",
        "\x0b",
        "\x85",
        "\u2028",
        "\ufeff",
        "\x1b[31m",
    ),
    *(
        "\u202e",
        "=1+1",
        "x" * 5000,
        "a " * 3000,
        *NAMES[:2],
        *FAILS[:2],
        "Archery",
        "{",
        "}",
        "[",
        "]",
    ),
]
pieces = st.lists(st.sampled_from(words) | st.text(max_size=6), max_size=12)
lines = st.lists(pieces.map(" ".join) | pieces.map(",".join) | pieces.map("".join), max_size=8)
text = st.builds(lambda end, lines: end.join(lines), st.sampled_from(["\n", "\r\n", "\r"]), lines)
encoded = st.builds(
    lambda text, code: text.encode(code, "ignore"),
    text,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
)
numbers = st.floats() | st.integers() | st.sampled_from([True, None, "1", 10**30, [], {}, -1, 1.5])
times = st.dictionaries(
    st.sampled_from([*FAILS, "val 1", "x", "\ud800", ""]),
    st.dictionaries(st.sampled_from(["t", "len"]), st.lists(numbers, max_size=4) | numbers)
    | numbers,
)
anything = st.binary(max_size=300) | encoded | times.map(lambda value: json.dumps(value).encode())


@st.composite
def changed(draw, good):
    """The bytes of a good list with some taken out, and some put in."""
    start = draw(st.integers(0, len(good)))
    stop = draw(st.integers(start, min(len(good), start + 50)))
    return good[:start] + draw(anything) + good[stop:]


def check_any(tree, name, data):
    _, good = tree
    file = data.draw(st.sampled_from(sorted(good)))
    check_list(tree, name, file, data.draw(anything | changed(good[file])))


@pytest.mark.parametrize("name", LISTED)
@given(data=st.data())
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_any_list(lasting, name, data):
    check_any(lasting(name), name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
@given(data=st.data())
@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
def test_any_list_at_length(lasting, name, data):
    check_any(lasting(name), name, data)


HEADS = {"csv": "path,label\n", "kinetics400": "label,youtube_id,time_start,time_end\n"}
MONSTERS = {
    "spaces": b"a" + b" " * LONG + b"x",
    "spaces and a number": b"a" + b" " * LONG + b"1",
    "many numbers": b"1 " * LONG,
    "digits": b"9" * LONG,
    "digits for a number": b"a " + b"9" * LONG,
    "underscores": b"_" * LONG,
    "groups": b"_g1" * LONG,
    "groups of digits": b"Archery/_g" + b"1" * LONG + b" 1",
    "slashes": b"/" * LONG,
    "folders": b"a/" * LONG + b"b.avi 1",
    "quotes": b'"' * LONG,
    "an open quote": b'"' + b"a,\n" * LONG,
    "commas": b"," * LONG,
    "brackets": b"[" * LONG,
    "objects": b'{"a":' * LONG,
    "line ends": b"\n" * LONG,
    "carriage returns": b"a 1\r" * 1000,
    "a field beyond csv's limit": b"x" * 200_000 + b",run",
    "dots": b"." * LONG,
    "suffixes": b".mp4" * LONG,
    "marks": "\ufeff".encode() * LONG,
    "accents": "e\u0301".encode() * LONG,
    "UTF-16": "path,label\na.mp4,run\n".encode("utf-16"),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("monster", MONSTERS)
def test_long_lines_end_at_once(lasting, name, monster):
    """2026-11: a line of spaces took a regular expression quadratic time, hours for a megabyte."""
    tree = lasting(name)
    head = HEADS.get(name, "").encode()
    for file in tree[1]:
        check_list(tree, name, file, head + MONSTERS[monster])


def test_a_message_does_not_quote_a_megabyte(tmp_path):
    root = ucf101(tmp_path / "U", NAMES[:1])
    texts(root, {"splits_classification/trainlist01.txt": ["x" * 10**6]})
    assert len(refused("ucf101", root)) < 1000
    texts(root, {"splits_classification/trainlist01.txt": ["Archery/" + "x" * 10**6]})
    assert "is longer than a path can be" in refused("ucf101", root)
    assert quoted("a\n") == r"'a\n'"


def test_numbers_of_lists(tmp_path):
    """2026-11: a class number of five thousand digits ended in a traceback."""
    assert to_number("12") == 12
    for other in "", "-1", "1.0", "²", "9" * 5000, "1e3", "one":
        assert to_number(other) is None
    root = ucf101(tmp_path / "U", NAMES[:1], lists={"classInd": ["9" * 5000 + " Archery"]})
    assert "is not a number and a name" in refused("ucf101", root)


def test_names_of_times_that_no_file_can_have(tmp_path):
    """JSON can spell halves of characters, which no table and no terminal takes."""
    root = build("oops", tmp_path / "O")
    path = root / "oops_dataset/annotations/transition_times.json"
    path.write_text('{"\\ud800": {"t": [1, 2, 3]}}')
    assert "can be no file's name" in refused("oops", root)


def test_many_columns_and_rows(tmp_path):
    """A table as wide as it is long; what it names beside path and label is passed over."""
    out = io.StringIO()
    names = [f"{i}.mp4" for i in range(100)]
    head = ["path", "label", *(f"c{i}" for i in range(5000))]
    csv.writer(out).writerows([head, *([name, "x", *range(6000)] for name in names)])
    root = texts(plant(tmp_path / "c", names), {"train.csv": out.getvalue().splitlines()})
    assert len(list_dataset("csv", root).listed) == 100
    lines = table(head=["label", "youtube_id", "time_start", "time_end", "time_end"])
    root = texts(plant(tmp_path / "k", ["train/x.mp4"]), {"train.csv": lines})
    assert "line 2: 'train' is no time" in refused("kinetics400", root)


@pytest.mark.parametrize("name", LISTED)
def test_pipes_and_devices_in_place_of_lists(tmp_path, name):
    """Refused, and not waited for; no copy takes them along."""
    for target in None, "/dev/zero", "/dev/stdin":
        root = build(name, tmp_path / str(target).replace("/", "_"))
        for file in annotation_files(name, root):
            (root / file).unlink()
            if target is None:
                os.mkfifo(root / file)
            else:
                (root / file).symlink_to(target)
        assert "no plain file" in refused(name, root)
        assert annotation_files(name, root) == []
