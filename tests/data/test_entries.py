"""What the index reads back: any content is an entry that could have been written, or absent."""

import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trees import grey_video, load

from memdpc.base.config import ScanConfig
from memdpc.data._entries import info_from, parse_entry
from memdpc.data.clips import is_short
from memdpc.data.index import Index, describe
from memdpc.data.scan import scan
from memdpc.data.video import VideoInfo, frame_times

SEEK_POINTS = ((12, 6144), (24, 12288))
VIDEO = VideoInfo(30, 64, 48, 25.0, "h264", SEEK_POINTS, times=((0, 0.0), (29, 1.5)))
INFO = json.loads(json.dumps(vars(VIDEO)))
GOOD = {"stamp": [1000, 1_700_000_000_123_456_789], "info": INFO, "psnr": 41.5}
HUGE = 10**400


def parse(entry):
    return parse_entry(json.dumps(entry).encode())


def test_an_entry_that_was_written_is_understood():
    found = parse(GOOD)
    assert found["info"] == VIDEO
    assert found["stamp"] == GOOD["stamp"]
    assert parse({"reason": "is empty", "stamp": [0, 1]}) == {"stamp": [0, 1], "reason": "is empty"}
    assert parse({"reason": "late\n", "limit": 5.0}) == {"reason": "late\\n", "limit": 5.0}


WRONG = {
    "frames": [0, -1, None, True, 1.5, "30", [], {}, HUGE, 10**12, float("nan")],
    "width": [0, -1, None, True, 64.0, "64", HUGE],
    "height": [0, None, [48]],
    "fps": [-1, float("nan"), float("inf"), None, "25", True, HUGE, 1e-300],
    "codec": [None, 7, ["h264"], "x" * 1000, "h264\n", "\x1b[31m", "\ud800"],
    "seek_points": [
        None,
        7,
        "ab",
        {},
        [7],
        [[1]],
        [[1, 2, 3]],
        [["1", 2]],
        [[1, None]],
        [[1.5, 2]],
    ],
    "damage": [-1, None, 1.5, True, HUGE],
    "times": [None, [[0, "0"]], [[0, float("nan")]], [[0, 0.0], [0, 1.0]], [[0, 5.0], [3, 1.0]]],
}
WRONG["seek_points"] += [[[30, 9]], [[5, 1], [2, 3]], [[-1, 2]], [[1, HUGE]], [[1, True]]]
WRONG["times"] += [[[0, float("inf")]], [[0, 0.0], [HUGE, 1.0]], [[[0], 1.0]]]


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_no_video_has_makes_the_entry_absent(name):
    """2026-11: `frames` of 0 or null ended scan in a traceback, until the cache was deleted."""
    for value in WRONG[name]:
        assert info_from(INFO | {name: value}) is None, value
        assert parse(GOOD | {"info": INFO | {name: value}}) is None, value
    rest = {key: value for key, value in INFO.items() if key != name}
    assert info_from(rest) is None
    assert info_from(rest | {name[:-1] + "x": INFO[name]}) is None


def test_other_parts_that_cannot_be_understood():
    stamps = [None, 7, [1], [1, 2, 3], ["1", 2], [1.0, 2], [-1, 2], [True, 2], [HUGE, 2], {}]
    for stamp in stamps:
        assert parse(GOOD | {"stamp": stamp}) is None
    for reason in None, 7, "", ["x"], "x" * 2000:
        assert parse({"reason": reason}) is None
    for number in None, "1", -1, float("nan"), float("inf"), HUGE, True:
        assert parse(GOOD | {"psnr": number}) is None
        assert parse({"reason": "x", "limit": number}) is None
    assert parse(GOOD | {"reason": "both"}) is None
    assert parse({"stamp": [1, 2]}) is None
    assert parse({"reason": "\ud800"})["reason"].encode()  # can be written
    for text in b"[" * 100_000, b'{"info":' * 50_000, b"9" * 5000, b"\xff\xfe", b"", b"null":
        assert parse_entry(text) is None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [HUGE, -HUGE, 1e308, 5e-324, 2**63, 2**31, "h264", "\ud800", [[0, 1], [1, 2]]]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
infos = st.builds(
    lambda change: INFO | change, st.dictionaries(st.sampled_from(list(INFO)), values)
)
entries = st.dictionaries(
    st.sampled_from(["stamp", "info", "reason", "limit", "psnr", "x"]), values
)
nearly = st.builds(lambda entry, info: GOOD | {"info": info} | entry, entries, infos)


def check(text):
    """What is understood can be used: every consumer's arithmetic works on it."""
    entry = parse_entry(text)
    if entry is None:
        return False
    assert ("info" in entry) != ("reason" in entry)
    if "info" in entry:
        info = entry["info"]
        assert len(frame_times(info)) == info.frames
        assert round(info.duration, 3) >= 0
        assert is_short(ScanConfig(), info) in (True, False)
        assert is_short(ScanConfig(time_stride=0.1), info) in (True, False)
    return True


@given(
    st.binary(max_size=200) | st.builds(lambda entry: json.dumps(entry).encode(), entries | nearly)
)
@settings(deadline=None, max_examples=30)
@example(b'{"reason": "' + b"x" * 10**6 + b'"}')
def test_any_line_is_an_entry_or_absent(text):
    check(text)


@pytest.mark.slow
@given(
    st.binary(max_size=2000) | st.builds(lambda entry: json.dumps(entry).encode(), nearly | values)
)
@settings(deadline=None, max_examples=3000)
def test_three_thousand_lines(text):
    check(text)


def test_spoiled_bytes():
    """Digits, letters and brackets of a good line exchanged."""
    text = json.dumps(GOOD)
    rng = random.Random(0)
    understood = 0
    for _ in range(3000):
        line = bytearray(text.encode())
        for _ in range(rng.choice([1, 1, 2, 5])):
            line[rng.randrange(len(line))] = rng.choice(b'0123456789.,-+eE[]{}": aN\x00\xff')
        understood += check(bytes(line))
    assert 0 < understood < 3000


def test_a_spoiled_index_is_read_again(tmp_path):
    """Load and scan go on, with what the files say, whatever stands in the cache."""
    root = tmp_path / "f"
    for i in range(3):
        grey_video(root / f"{i}.mp4")
    good = load("folder", root)
    file = Index(root).file
    text = file.read_text()
    changes = {
        '"height"': '"heigxt"',
        '"frames": 8': '"frames": 0',
        '"fps": 25.0': '"fps": NaN',
        '{"stamp"': "[" * 5000 + '{"stamp"',
        '"codec": "mpeg4"': '"codec": null',
        '"seek_points": [': '"seek_points": [[1, [2]],',
        '"stamp": [': '"stamp": ["x", ',
    }
    for old, new in changes.items():
        assert old in text
        file.write_text(text.replace(old, new))
        assert load("folder", root) == good
        file.write_text(text.replace(old, new))
        assert scan(ScanConfig("folder", str(root), num_workers=0)).counts[""] == {"short": 3}


def test_what_is_written_is_understood(tmp_path):
    path = grey_video(tmp_path / "x.mkv", 40)
    entry = describe(path)
    assert parse(entry)["info"] == info_from(entry["info"])
