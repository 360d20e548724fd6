"""The videos of a dataset as training takes them: the packed list, and what is held out."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdpc.base.errors import DatasetError
from memdpc.data.video import VideoInfo
from memdpc.data.videos import Packed, Video, VideoList, hold_out, summarize_reasons

linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")


def some(count):
    """Videos of every kind of field."""
    for i in range(count):
        info = VideoInfo(
            100 + i,
            320,
            240,
            30000 / 1001,
            "h264",
            ((12, 512), (24, 1024)),
            i % 3,
            ((0, 0.0), (9, 0.1)) if i % 2 else (),
        )
        transitions = (2.5, -1.0) if i % 2 else ()
        path = os.fsdecode(b"caf\xe9/%d [x].avi" % i)
        yield Video(path, i % 7 - 1, f"g{i % 5}", info, transitions)


def test_packed_is_a_sequence_of_the_same_videos():
    """Items, slices, iteration, equality, index."""
    videos = tuple(some(50))
    packed = Packed(videos)
    assert len(packed) == 50
    assert tuple(packed) == videos
    assert (packed[7], packed[-1], packed[np.int64(3)]) == (videos[7], videos[-1], videos[3])
    assert type(packed[7].info.seek_points[0]) is tuple
    assert hash(packed[7]) == hash(videos[7])
    assert tuple(packed[5:20:3]) == videos[5:20:3]
    assert tuple(packed[::-1]) == videos[::-1]
    assert packed[:50] == packed
    assert packed[:49] != packed
    assert packed.index(videos[9]) == 9
    assert videos[9] in packed
    assert hash(packed) == hash(Packed(videos))
    for index in 50, -51:
        with pytest.raises(IndexError):
            packed[index]


def test_packed_is_pickled_small_and_may_be_empty():
    videos = tuple(some(50))
    packed = Packed(videos)
    data = pickle.dumps(packed)
    assert pickle.loads(data) == packed
    assert len(data) < 60 * len(packed.text) / 50 * 1.2
    assert not len(Packed())
    assert list(Packed()) == []
    unknown = replace(videos[0], info=None)
    assert tuple(Packed([unknown])) == (unknown,)


def test_only():
    videos = VideoList("x", Path("."), (), Packed(some(50)), (("y", "is empty"),))
    odd = videos.only(lambda video: video.info.frames % 2)
    assert [video.info.frames for video in odd.videos] == list(range(101, 150, 2))
    assert odd.skipped == videos.skipped
    assert len(videos) == 50


def test_reasons_are_counted_in_one_line():
    """The most frequent first, an example of each, and never a line end of a file's name."""
    pairs = [("a.mp4", "is empty"), ("b\n.mp4", "no such file"), ("c.mp4", "no such file")]
    assert summarize_reasons(pairs) == "2 no such file (b\\n.mp4, ...), 1 is empty (a.mp4)"
    many = [(f"{i}.mp4", f"reason {i}") for i in range(10)]
    assert summarize_reasons(many, most=2) == (
        "1 reason 0 (0.mp4), 1 reason 1 (1.mp4), and 8 more reasons"
    )


MEMORY = """
import os, sys
from memdpc.data.video import VideoInfo
from memdpc.data.videos import Packed, Video

def some(count):
    for i in range(count):
        info = VideoInfo(180 + i % 9, 320, 240, 25.0, 'mpeg4', ((13, 13), (26, 26)))
        yield Video(f'videos/Class{i % 101}/v_{i:06d}.avi', i % 101, f'g{i % 25}', info)

def private():
    lines = open('/proc/self/smaps_rollup')
    return sum(int(line.split()[1]) for line in lines if line.startswith('Private')) / 1000

before = private()
videos = {'tuple': tuple, 'Packed': Packed}[sys.argv[1]](some(200_000))
takes = private() - before
reader, writer = os.pipe()
if not os.fork():
    before = private()
    for video in videos:
        video.path
    os.write(writer, str(private() - before).encode())
    os._exit(0)
os.wait()
print(takes, float(os.read(reader, 99)))
"""


def megabytes(kind):
    words = [sys.executable, "-c", MEMORY, kind]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


@linux
@pytest.mark.slow
def test_a_packed_list_is_not_copied_into_every_process():
    """Megabytes that 200,000 videos take.

    And the private memory that a forked process gains by walking over them.
    """
    found = {kind: megabytes(kind) for kind in ("tuple", "Packed")}
    print(found)
    assert found["tuple"][0] > 3 * found["Packed"][0]
    assert found["tuple"][1] > 50
    assert found["Packed"][1] < 5


@given(
    groups=st.lists(st.sampled_from(["", "g01", "g02", "g03", "g04"]), min_size=2, max_size=40),
    fraction=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_hold_out_parts_no_group(groups, fraction, seed):
    """Of any list: nothing lost, nothing twice, in order, and the same each time.

    No group is in both parts.
    """
    entries = [Video(f"{i}.avi", 0, group, None) for i, group in enumerate(groups)]
    videos = VideoList("x", Path("."), (), Packed(entries))
    units = len({group or i for i, group in enumerate(groups)})
    try:
        kept, held = hold_out(videos, fraction, seed)
    except DatasetError:
        assert round(fraction * units) >= units - 1 or len(set(groups)) == 1
        return
    assert sorted((*kept.videos, *held.videos), key=videos.videos.index) == entries
    assert len(kept)
    shared = {video.group for video in kept.videos} & {video.group for video in held.videos}
    assert not shared - {""}
    assert bool(len(held)) == (fraction > 0)
    assert (kept, held) == hold_out(videos, fraction, seed)
    rest = set(kept.videos)
    assert list(kept.videos) == [video for video in videos.videos if video in rest]
