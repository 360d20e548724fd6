"""Names in lists and names on disks: what stands for what, what does not, and what is said."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import (
    FAILS,
    FILES,
    NAMES,
    ROWS,
    grey_video,
    load,
    oops,
    paths,
    plant,
    refused,
    table,
    texts,
    ucf101,
    ucf101_with_videos,
)

from memdpc.base.config import ScanConfig
from memdpc.data.layouts import Listed, list_dataset, normalize_name
from memdpc.data.layouts.listing import ABSENT, UNCLEAR
from memdpc.data.layouts.matching import loosely, match_files
from memdpc.data.scan import scan


def match(found, names, others=()):
    return match_files(found, [Listed(name) for name in names], [Listed(name) for name in others])


SPELLINGS = {
    "re-encoded": ("A/v_A_g01_c01.avi", "A/v_A_g01_c01.mp4"),
    "another suffix, in capitals": ("A/v.avi", "A/v.MP4"),
    "suffixes of a downloader": ("A/v.mp4", "A/v.mp4.mkv"),
    "one suffix twice": ("A/v.mp4", "A/v.mp4.mp4"),
    "three suffixes": ("A/v.avi", "A/v.webm.mp4.mkv"),
    "a suffix less": ("A/v.mp4.webm", "A/v.mp4"),
    "no suffix in the list": ("A/v", "A/v.mp4"),
    "spaces": ("brush_hair/my video.avi", "brush hair/my_video.avi"),
    "several spaces": ("A/my  video .avi", "A/my_video_.avi"),
    "case": ("A/HandStand.avi", "A/handstand.AVI"),
    "composed": ("A/\u00e9t\u00e9.mp4", "A/e\u0301te\u0301.mp4"),
    "wide letters": ('A/Fail: the "best"?.mp4', "A/Fail： the ＂best＂？.mp4"),
    "from Windows": ("A\\v.mp4", "A/v.mp4"),
    "all at once": ("A/My Vid\u00e9o.avi", "a/my_vide\u0301o.MP4.mkv"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_another_spelling_is_found_and_said(name):
    """2026-11: a dataset re-encoded to .mp4 was refused, and the name sought was not told."""
    listed, path = SPELLINGS[name]
    found = match([path, "A/other.mp4"], [listed])
    assert [entry.path for entry in found.there] == [path]
    assert found.renamed == [(listed, path)]
    assert found.unused == ["A/other.mp4"]
    assert not found.absent
    assert not found.hint


DIFFERENT = {
    "another suffix that is none of a video": ("A/v.avi", "A/v.part.avi"),
    "part of a name": ("A/v.avi", "A/v1.avi"),
    "another folder": ("A/v.avi", "B/v.avi"),
    "hyphens are no spaces": ("A/a-b.avi", "A/a_b.avi"),
    "numbers are no times": ("A/a_000010_000020.avi", "A/a_10_20.avi"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_name_is_another_video(name):
    listed, path = DIFFERENT[name]
    found = match([path], [listed])
    assert found.absent == [(listed, ABSENT)]
    assert found.unused == [path]


def test_what_is_not_clear_is_absent():
    """Two files for one name, two names for one file; both are said, and neither is guessed."""
    found = match(["v.mp4", "v.mkv"], ["v.avi"])
    assert found.absent == [("v.avi", UNCLEAR)]
    assert found.hint == "nearest to v.avi: v.mkv or v.mp4"
    found = match(["v.mp4"], ["v.avi", "v.mkv"])
    assert found.absent == [("v.avi", UNCLEAR), ("v.mkv", UNCLEAR)]
    assert found.unused == ["v.mp4"]
    # the nearer form decides
    found = match(["V.avi", "v.mp4"], ["v.avi"])
    assert found.renamed == [("v.avi", "V.avi")]


def test_a_file_whose_own_name_is_listed_stands_for_nothing_else():
    """Not even for a name of the other subset."""
    assert match(["v.mp4"], ["v.avi", "v.mp4"]).absent == [("v.avi", ABSENT)]
    assert match(["v.mp4"], ["v.avi"], ["v.mp4"]).absent == [("v.avi", ABSENT)]
    assert match(["v.mp4"], ["v.avi"], ["v.mkv"]).absent == [("v.avi", UNCLEAR)]
    found = match(["v.mp4"], ["v.mp4"], ["v.mp4", "w.avi"])
    assert [entry.path for entry in found.there] == ["v.mp4"]


def test_the_nearest_name_is_told():
    found = match(["A/v_Archery_g01_c02.avi", "A/else.avi"], ["A/v_Archery_g1_c02.avi"])
    assert found.hint == "nearest to A/v_Archery_g1_c02.avi: A/v_Archery_g01_c02.avi"
    assert match(["B/zzz.avi"], ["A/v_Archery_g1_c02.avi"]).hint == ""


word = st.text("aAäÄa\u0308b/ß", min_size=1, max_size=4)
spelled = st.builds("{}{}".format, word, st.sampled_from(["", ".avi", ".mp4", ".MP4.mkv", " _"]))


@given(
    found=st.lists(spelled, unique=True, max_size=12),
    names=st.lists(spelled, max_size=12),
    others=st.lists(spelled, max_size=4),
)
def test_compare_loses_nothing(found, names, others):
    """Every name is there or absent, and every file used or not; exact names stand for themselves.

    Nobody else gets their files, and no file stands for two names.
    """
    listed = [Listed(name, i) for i, name in enumerate(names)]
    result = match_files(found, listed, [Listed(name) for name in others])
    assert len(result.there) + len(result.absent) == len(names)
    owner = {}
    for entry in result.there:
        name = names[entry.label]
        assert owner.setdefault(entry.path, name) == name
        if name in found:
            assert entry.path == name
        else:
            assert loosely(entry.path) == loosely(name)
            assert entry.path not in {*names, *others}
    assert not {name for name, _ in result.absent} & set(found)
    used = set(owner) | set(result.unused)
    assert used <= set(found)
    if not others:
        assert used == set(found)


def test_many_names():
    """Kinetics-400 re-encoded: no comparison of each name with each, which would take hours."""
    names = [f"train/class {i % 400}/{i:06d}_000010_000020.mp4" for i in range(20_000)]
    files = [name.replace("class ", "class_").replace(".mp4", ".mkv") for name in names[1000:]]
    found = match(files, names)
    assert len(found.renamed) == 19_000
    assert len(found.absent) == 1000


# ---- in the layouts


def test_ucf101_re_encoded(tmp_path, caplog):
    """Said in the log of every training run, in the report of a scan, and in its table."""
    root = ucf101_with_videos(tmp_path / "U")
    for name in NAMES[:3]:
        path = root / "videos" / name
        path.rename(path.with_suffix(".mp4"))
    videos = load("ucf101", root)
    assert [video.label for video in videos.videos] == [0, 0, 0, 1, 1, 1]
    first = f"videos/{NAMES[0]}"
    renamed = first.replace(".avi", ".mp4")
    line = f"3 of 6 videos are found under another name (the list says {first}, the disk {renamed})"
    assert caplog.messages == [f"{root}: {line}"]
    report = scan(ScanConfig("ucf101", str(root), out=str(tmp_path / "out")))
    assert line in str(report)
    rows = report.table.read_text().splitlines()
    assert [row.split(",")[-1] for row in rows if row.startswith(renamed)] == [first]


def test_a_name_that_is_not_there_is_told(tmp_path, caplog):
    """2026-11: the message named a file that no list knows, and not the one that was sought."""
    root = ucf101(tmp_path / "U", NAMES[:1], data=b"x")
    sought = f"videos/{NAMES[0]}"
    path = root / sought
    path.rename(path.with_name("v_Archery_g1_c01.avi"))
    text = refused("ucf101", root)
    nearest = "nearest to videos/Archery/v_Archery_g01_c01.avi: videos/Archery/v_Archery_g1_c01.avi"
    assert f"(the first, {sought}: no such file; {nearest})" in text
    grey_video(root / "videos" / NAMES[1])
    texts(root, {"splits_classification/trainlist01.txt": [f"{NAMES[0]} 1", f"{NAMES[1]} 1"]})
    assert len(load("ucf101", root)) == 1
    assert nearest in caplog.text
    assert nearest in str(scan(ScanConfig("ucf101", str(root))))


def test_a_file_of_the_other_list_is_not_taken(tmp_path):
    lists = {"testlist01": ["Archery/v_Archery_g01_c01.mp4"], "trainlist01": [f"{NAMES[0]} 1"]}
    root = ucf101(tmp_path / "U", NAMES[:1], lists=lists)
    path = root / "videos" / NAMES[0]
    path.rename(path.with_suffix(".mp4"))
    assert "none of the listed videos is there" in refused("ucf101", root)
    assert len(list_dataset("ucf101", root, subset="test").listed) == 1


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_oops_as_downloaders_write_it(tmp_path, form):
    root = oops(tmp_path / "O")
    folder = root / "oops_dataset/oops_video/train"
    for name in FAILS:
        other = unicodedata.normalize(form, name).replace(" ", "_").replace('"', "＂")
        os.rename(folder / f"{name}.mp4", folder / f"{other}.mp4.webm")
    found = list_dataset("oops", root)
    assert len(found.listed) == len(found.renamed) == len(FAILS)
    assert [bool(entry.transitions) for entry in found.listed] == [True, True, True, False, True]


KINETICS = {
    "without times": "{id}.mp4",
    "without times, another suffix": "{id}.webm",
    "plain times": "{id}_{start}_{end}.mp4",
    "fractions": "{id}_{start}.0_{end}.0.mp4",
    "two suffixes": "{id}_{start:06d}_{end:06d}.mp4.mkv",
    "in folders of classes": "{label}/{id}_{start:06d}_{end:06d}.mkv",
    "in folders without spaces": "{folder}/{id}_{start}_{end}.mkv",
}


@pytest.mark.parametrize("name", KINETICS)
def test_kinetics400_as_downloaders_write_it(tmp_path, name):
    files = []
    for label, video, start, end in ROWS:
        folder = label.replace(" ", "_")
        values = {"label": label, "folder": folder, "id": video, "start": start, "end": end}
        files.append("train/" + KINETICS[name].format(**values))
    root = texts(plant(tmp_path / "k", files), {"train.csv": table()})
    found = list_dataset("kinetics400", root)
    assert paths(found) == files
    assert not found.missing
    assert len(found.renamed) == len(ROWS)
    assert found.renamed[0] == (FILES[0], files[0])


def test_kinetics400_times_that_tell_apart(tmp_path):
    """Another piece of a video is another video, and a file without times is not two pieces."""
    rows = [("yoga", "abc", 10, 20), ("yoga", "abc", 50, 60), ("run", "def", 10, 20)]
    files = ["train/abc.mp4", "train/def_000030_000040.mp4", "train/def_10_20.mp4"]
    root = texts(plant(tmp_path / "k", files), {"train.csv": table(rows)})
    found = list_dataset("kinetics400", root)
    assert paths(found) == ["train/def_10_20.mp4"]
    assert found.missing[:2] == (
        ("abc_000010_000020.mp4", UNCLEAR),
        ("abc_000050_000060.mp4", UNCLEAR),
    )


def test_kinetics400_tables_with_fractions(tmp_path):
    """Tables that went through a spreadsheet or pandas say 59.0."""
    rows = [(label, video, f"{start}.0", f"{end}.00") for label, video, start, end in ROWS]
    root = texts(
        plant(tmp_path / "k", [f"train/{name}" for name in FILES]), {"train.csv": table(rows)}
    )
    found = list_dataset("kinetics400", root)
    assert len(found.listed) == len(ROWS)
    assert not found.renamed
    texts(root, {"train.csv": table([("yoga", "abc", "59.5", "69.5")])})
    assert "line 2: '59.5' is no time in whole seconds" in refused("kinetics400", root)


def test_kinetics400_a_video_in_two_folders(tmp_path):
    """That in the folder of its class counts; the other is counted as one without a name."""
    label, other = ROWS[0][0], ROWS[1][0]
    files = [f"train/{label}/{FILES[0]}", f"train/{other}/{FILES[0]}"]
    root = texts(plant(tmp_path / "k", files), {"train.csv": table(ROWS[:1])})
    found = list_dataset("kinetics400", root)
    assert paths(found) == files[:1]
    assert found.missing == ((files[1], "is not in train.csv"),)


def test_csv_re_encoded(tmp_path):
    root = plant(tmp_path / "c", ["a/1.mp4", "b b/2.webm.mp4", "3.video"])
    rows = ["path,label", "a/1.avi,run", "b_b/2.webm,run", "3.video,run"]
    found = list_dataset("csv", texts(root, {"train.csv": rows}))
    assert paths(found) == ["a/1.mp4", "b b/2.webm.mp4", "3.video"]
    assert len(found.renamed) == 2
    assert normalize_name("A") == "a"
