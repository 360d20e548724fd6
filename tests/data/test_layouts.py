"""Which videos there are.

The five layouts as their archives have them, lists that lie, names of every kind, folders that lead
in circles.
"""

import json
import os
import re
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from trees import (
    ACTIONS,
    FAILS,
    FILES,
    FILMS,
    HEAD,
    LAYOUTS,
    NAMES,
    ROWS,
    TIMES,
    build,
    hmdb51,
    oops,
    paths,
    plant,
    refused,
    table,
    texts,
    ucf101,
)

from memdpc.base.errors import ConfigError, MemdpcError, printable
from memdpc.data.layouts import (
    DATASETS,
    Listed,
    Listing,
    annotation_files,
    kinetics,
    list_dataset,
    number_of_splits,
    register_dataset,
    video_paths,
)
from memdpc.data.layouts import hmdb51 as hmdb51_module
from memdpc.data.video import write_video
from memdpc.data.videos import load_dataset

KINETICS_TABLES = kinetics.ANNOTATIONS
SPLITS = Path(__file__).resolve().parents[3] / "shared/data/ucf101_splits"
needs_splits = pytest.mark.skipif(
    not SPLITS.exists(), reason="no shared split files beside this checkout"
)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """The bytes of a video of eight frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    frames = np.broadcast_to(
        (20 * np.arange(8)).astype(np.uint8)[:, None, None, None], (8, 16, 16, 3)
    )
    write_video(path, frames, codec="mpeg4", options={"g": "4"})
    return path.read_bytes()


# ---- UCF101


@pytest.fixture
def tree(tmp_path):
    return ucf101(tmp_path / "UCF101", NAMES)


@needs_splits
def test_ucf101_whole(tmp_path):
    """The real lists, with CRLF as they come, and a file for each name.

    The official counts, labels and groups of all three splits.
    """
    root = tmp_path / "UCF101"
    shutil.copytree(SPLITS, root / "ucfTrainTestlist")
    names = sorted(
        {
            line.split()[0]
            for path in SPLITS.glob("t*list01.txt")
            for line in path.read_text().splitlines()
            if line
        }
    )
    plant(root, [f"UCF-101/{name}" for name in names])  # as the archive unpacks
    classes = [
        line.split()[1] for line in (SPLITS / "classInd.txt").read_text().splitlines() if line
    ]
    sizes = {
        (1, "train"): 9537,
        (1, "test"): 3783,
        (2, "train"): 9586,
        (2, "test"): 3734,
        (3, "train"): 9624,
        (3, "test"): 3696,
    }
    groups = {}
    for (split, subset), size in sizes.items():
        found = list_dataset("ucf101", root, split, subset)
        lines = [
            line
            for line in (SPLITS / f"{subset}list{split:02d}.txt").read_text().splitlines()
            if line
        ]
        assert (
            len(found.listed) == size == len(lines)
            and not found.missing
            and found.classes == tuple(classes)
            and len(classes) == 101
        )
        for entry, line in zip(found.listed, lines, strict=True):
            name = line.split()[0]
            assert (
                entry.path == f"UCF-101/{name}" and entry.group == re.search(r"_(g\d\d)_", name)[1]
            )
            assert classes[entry.label] == name.split("/")[0] and (
                len(line.split()) == 1 or entry.label == int(line.split()[1]) - 1
            )
        groups[split, subset] = {entry.group for entry in found.listed}
    assert len(names) == 13320 and all(
        not groups[split, "train"] & groups[split, "test"] for split in (1, 2, 3)
    )
    assert len(groups[1, "train"]) == 18 and len(groups[1, "test"]) == 7


@needs_splits
def test_ucf101_opened(tmp_path, clip):
    """Real lists cut to three classes, real videos.

    What `load_dataset` gives is what the lists say.
    """
    wanted, root = {"ApplyEyeMakeup", "HandstandPushups", "YoYo"}, tmp_path / "UCF101"
    for path in SPLITS.glob("*.txt"):
        lines = [
            line
            for line in path.read_text().splitlines()
            if path.stem == "classInd"
            or re.search(r"_g0[178]_c01", line)
            and line.split("/")[0] in wanted
        ]
        texts(root, {f"splits_classification/{path.name}": lines}, "\r\n")
    for subset in "train", "test":
        lines = (root / f"splits_classification/{subset}list01.txt").read_text().splitlines()
        plant(root, [f"videos/{line.split()[0]}" for line in lines], clip)
        found = load_dataset("ucf101", root, subset=subset, progress=False)
        assert [video.path for video in found.videos] == [
            f"videos/{line.split()[0]}" for line in lines
        ] and not found.skipped
        assert [found.classes[video.label] for video in found.videos] == [
            line.split("/")[0] for line in lines
        ]
        assert {video.group for video in found.videos} == (
            {"g08"} if subset == "train" else {"g01", "g07"}
        )
        assert all(video.info.frames == 8 for video in found.videos)


@pytest.mark.parametrize("splits", ["splits_classification", "ucfTrainTestlist"])
@pytest.mark.parametrize("videos", ["videos", "UCF-101"])
def test_ucf101_folders(tree, videos, splits):
    """Both usual names of both folders."""
    os.rename(tree / "splits_classification", tree / "aside")
    os.rename(tree / "aside", tree / splits)
    os.rename(tree / "videos", tree / videos)
    assert paths(list_dataset("ucf101", tree)) == [f"{videos}/{name}" for name in NAMES]


@pytest.mark.parametrize(
    "folder,file,line",
    [
        (a, b, c)
        for a in ("HandstandPushups", "HandStandPushups")
        for b in ("stand", "Stand")
        for c in ("stand", "Stand")
    ],
)
def test_handstand_pushups_in_every_spelling(tmp_path, folder, file, line):
    root = ucf101(
        tmp_path / "U",
        [],
        ["Archery", "HandstandPushups"],
        lists={
            "trainlist01": [f"Hand{line}Pushups/v_HandStandPushups_g01_c01.avi 2"],
            "testlist01": ["Archery/v_Archery_g02_c01.avi"],
        },
    )
    name = f"videos/{folder}/v_Hand{file}Pushups_g01_c01.avi"
    found = list_dataset("ucf101", plant(root, [name, "videos/Archery/v_Archery_g02_c01.avi"]))
    assert found.listed == (Listed(name, 1, "g01"),) and not found.missing


def test_two_names_that_differ_in_case_are_two_videos(tmp_path):
    """And where one of them is gone the other does not stand for it."""
    names = ["Archery/v_Archery_g01_c01.avi", "Archery/V_ARCHERY_g01_c01.avi"]
    root = ucf101(tmp_path / "U", names)
    assert paths(list_dataset("ucf101", root)) == [f"videos/{name}" for name in names]
    (root / "videos" / names[0]).unlink()
    found = list_dataset("ucf101", root)
    assert paths(found) == [f"videos/{names[1]}"] and found.missing == (
        (f"videos/{names[0]}", "no such file"),
    )


@pytest.mark.parametrize(
    "newline,mark",
    [("\r\n", b""), ("\n", b"\xef\xbb\xbf"), ("\r\n\r\n  ", b"\xef\xbb\xbf"), ("\r", b"")],
)
def test_line_ends_marks_and_blank_lines(tmp_path, newline, mark):
    plain, other = ucf101(tmp_path / "a", NAMES), ucf101(tmp_path / "b", NAMES, newline=newline)
    for path in (other / "splits_classification").iterdir():
        path.write_bytes(mark + path.read_bytes())
    assert list_dataset("ucf101", plain) == list_dataset("ucf101", other)


def test_order_is_the_lists_and_classes_are_numbered_by_classind(tmp_path):
    names = [NAMES[i] for i in (4, 0, 5, 2)]
    root = ucf101(
        tmp_path / "U",
        names,
        lists={
            "classInd": ["20 Archery", "3 Biking"],
            "trainlist01": [f"{n} {20 if n[0] == 'A' else 3}" for n in names],
        },
    )
    found = list_dataset("ucf101", root)
    assert paths(found) == [f"videos/{name}" for name in names]
    assert found.classes == ("Biking", "Archery") and [entry.label for entry in found.listed] == [
        0,
        1,
        0,
        1,
    ]


def test_nothing_is_dropped_without_a_word(tree):
    """Half of a download, a line that stands twice, and a file in neither list."""
    gone = NAMES[::2]
    for name in gone:
        (tree / "videos" / name).unlink()
    texts(tree, {"splits_classification/testlist01.txt": ["Biking/v_Biking_g09_c01.avi"]})
    plant(tree, ["videos/Archery/mine.avi", "videos/Biking/v_Biking_g09_c01.avi"])
    with open(tree / "splits_classification/trainlist01.txt", "a") as file:
        file.write(f"{NAMES[1]} 1\n")
    found = list_dataset("ucf101", tree)
    assert paths(found) == [f"videos/{name}" for name in NAMES[1::2]]
    assert sorted(found.missing) == sorted(
        [
            *((f"videos/{name}", "no such file") for name in gone),
            (f"videos/{NAMES[1]}", "is listed twice"),
            ("videos/Archery/mine.avi", "is in no list of split 1"),
        ]
    )


LINE = NAMES[0]
WRONG = {
    "a class that is not listed": (
        {"trainlist01": ["Fencing/v_Fencing_g01_c01.avi 3"]},
        "classInd.txt lacks",
    ),
    "no class": ({"trainlist01": ["v_Archery_g01_c01.avi 1"]}, "classInd.txt lacks"),
    "a number that disagrees": ({"trainlist01": [f"{LINE} 2"]}, "the number of Archery is 1"),
    "a path that leads out": ({"trainlist01": ["Archery/../../../etc/passwd 1"]}, "leads out"),
    "a path that leads up": ({"trainlist01": ["../../etc/passwd 1"]}, "classInd.txt lacks"),
    "a path from the top": ({"trainlist01": ["/etc/passwd 1"]}, "classInd.txt lacks"),
    "an empty list": ({"trainlist01": []}, "lists no video"),
    "blank lines": ({"trainlist01": ["", "  ", ""]}, "lists no video"),
    "no classes": ({"classInd": []}, "lists no class"),
    "a class without a number": ({"classInd": ["Archery", "2 Biking"]}, "'Archery'"),
    "a number without a class": ({"classInd": ["1 Archery", "2"]}, "'2'"),
    "a class twice": ({"classInd": ["1 Archery", "2 Archery"]}, "of its own"),
    "a number twice": ({"classInd": ["1 Archery", "1 Biking"]}, "of its own"),
    "a binary file": ({"trainlist01": ["\0\1\2"]}, "not a text file"),
    "nothing that is there": (
        {"trainlist01": ["Archery/v_Archery_g09_c01.avi 1"]},
        "none of the listed videos is there",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_lists_are_one_line(tmp_path, name):
    lists, wanted = WRONG[name]
    assert wanted in refused("ucf101", ucf101(tmp_path / "U", NAMES[:1], lists=lists))


def test_wrong_folders_are_one_line(tree, tmp_path):
    assert "no such folder" in refused("ucf101", tmp_path / "nowhere")
    assert "no such folder" in refused("ucf101", tree / "splits_classification/classInd.txt")
    assert "no folder videos" in refused("ucf101", tree / "videos")
    assert "trainlist03.txt: no such file" in refused("ucf101", tree, split=3)
    assert "testlist01.txt: no such file" in refused("ucf101", tree, subset="test")
    assert "train or test" in refused("ucf101", tree, subset="val")
    assert "choose one of" in refused("ucf102", tree)
    os.mkfifo(tree / "splits_classification/testlist02.txt")
    assert "testlist02.txt: no plain file" in refused("ucf101", tree, split=2, subset="test")
    assert "ucf101 has 3" in refused("ucf101", tree, split=4) and "folder has 1" in refused(
        "folder", tree, split=2
    )
    (tree / "splits_classification/trainlist01.txt").write_bytes(b"Archery/v_\xe9.avi 1\n")
    assert "UTF-8" in refused("ucf101", tree)
    os.rename(tree / "splits_classification", tree / "splits")
    assert "splits_classification or ucfTrainTestlist" in refused("ucf101", tree)


# ---- HMDB51


def test_hmdb51_whole(tmp_path):
    """All 51 actions and three splits.

    3,570 videos to train and 1,530 to test in each, classes by name, films as groups, nothing
    missing.
    """
    root = hmdb51(tmp_path / "H")
    for split in 1, 2, 3:
        parts = {
            subset: list_dataset("hmdb51", root, split, subset) for subset in ("train", "test")
        }
        assert [len(part.listed) for part in parts.values()] == [3570, 1530] and len(ACTIONS) == 51
        assert not set(paths(parts["train"])) & set(paths(parts["test"]))
        for part, share in zip(parts.values(), (70, 30)):
            assert part.classes == tuple(sorted(ACTIONS)) and not part.missing
            assert set(Counter(entry.label for entry in part.listed).values()) == {share}
            for entry in part.listed:
                folder, name = entry.path.split("/")[1:]
                assert (
                    part.classes[entry.label] == folder
                    and entry.group == name[: name.rindex(f"_{folder}_f_")]
                    and entry.group in FILMS
                )


@pytest.mark.parametrize("splits", hmdb51_module.LIST_FOLDERS)
@pytest.mark.parametrize("videos", ["videos", "hmdb51_org", ""])
def test_hmdb51_folders(tmp_path, splits, videos):
    """Where the archives and their users put things.

    And real videos with names that a shell would not like.
    """
    root = tmp_path / "H"
    name = "Bl[u]e_&_(Red);_part_1!_wave_f_nm_np1_fr_goo_3.avi"
    plant(root, [os.path.join(videos, "wave", name)])
    texts(
        root,
        {
            f"{splits}/wave_test_split2.txt": [f"{name} 2"],
            f"{splits}/run_test_split2.txt": ["gone_run_f_nm_np1_fr_goo_3.avi 2"],
        },
    )
    found = list_dataset("hmdb51", root, 2, "test")
    assert found.listed == (
        Listed(os.path.join(videos, "wave", name), 1, "Bl[u]e_&_(Red);_part_1!"),
    ) and found.classes == ("run", "wave")
    assert found.missing == (
        (os.path.join(videos, "run/gone_run_f_nm_np1_fr_goo_3.avi"), "no such file"),
    )


def test_hmdb51_opened(tmp_path, clip):
    """Hostile names through the decoder and the index."""
    root = tmp_path / "H"
    names = [
        f"{film}_wave_f_nm_np1_fr_goo_{i}.avi"
        for i, film in enumerate(("[a]*?", "(b) & c; d!", "e'f\"g", "$HOME `x` |y", "-rf", "é#%20"))
    ]
    plant(root, [f"videos/wave/{name}" for name in names], clip)
    texts(root, {"splits/wave_test_split1.txt": [f"{name} 1" for name in names]})
    for _ in range(2):
        found = load_dataset("hmdb51", root, progress=False)
        assert [Path(video.path).name for video in found.videos] == names and not found.skipped
        assert [video.group for video in found.videos] == [name.split("_wave")[0] for name in names]


@pytest.mark.parametrize(
    "name,action,film",
    [
        ("RATRACE_wave_f_nm_np1_fr_goo_37.avi", "wave", "RATRACE"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        ("Run_Lola_Run_run_f_cm_np1_fr_med_5.avi", "run", "Run_Lola_Run"),
        (
            "(HQ)_Rugby_Tackles!_Somersault_f_cm_np1_ri_bad_0.avi",
            "somersault",
            "(HQ)_Rugby_Tackles!",
        ),
        ("Film_two_swing_f_cm_np1_ri_bad_0.avi", "swing_baseball", "Film_two"),
        ("mine.avi", "wave", "mine.avi"),
    ],
)
def test_source_film(name, action, film):
    """The film is what stands before the action, in whatever case.

    Where the action does not stand there, before its last word.
    """
    assert hmdb51_module.source_film(name, action) == film


def test_hmdb51_lists_that_lie(tmp_path):
    root = hmdb51(tmp_path / "H", ["run", "wave"])
    file = root / "testTrainMulti_7030_splits/wave_test_split1.txt"
    good = file.read_text()
    for line, said in {
        "x.avi 3": "0, 1 or 2",
        "x.avi": "0, 1 or 2",
        "1": "0, 1 or 2",
        "../../../x.avi 1": "leads out",
        "/etc/x.avi 0": "leads out",
    }.items():
        file.write_text(f"{good}{line}\n")
        text = refused("hmdb51", root)
        assert said in text and "wave_test_split1.txt" in text
    file.unlink()  # the class is known from its other splits: its number stays, the gap is an error
    assert (
        "wave_test_split1.txt: no such file" in refused("hmdb51", root)
        and len(list_dataset("hmdb51", root, 2).listed) == 140
    )
    file.write_text(good)
    plant(root, ["videos/wave/mine.avi", "videos/loose.avi"])
    assert {
        path
        for path, reason in list_dataset("hmdb51", root).missing
        if reason == "is in no file of split 1"
    } == {"videos/wave/mine.avi", "videos/loose.avi"}
    shutil.rmtree(root / "testTrainMulti_7030_splits")
    assert "no folder testTrainMulti_7030_splits" in refused("hmdb51", root)
    (root / "splits").mkdir()
    assert "class_test_split1.txt" in refused("hmdb51", root)


# ---- Kinetics-400


@pytest.mark.parametrize("name", KINETICS_TABLES)
def test_kinetics400_table_in_every_usual_place(tmp_path, name):
    """Flat as the archives unpack; missing videos and videos that the table lacks are counted.

    Commas within quotes; `is_cc`, a sixth column.
    """
    subset = "train" if "train" in name else "test"
    part = kinetics.VIDEO_FOLDERS[subset][-1]
    root = plant(tmp_path / "k", [f"{part}/{file}" for file in (*FILES[:3], "mine.mp4")])
    texts(root, {name: table(head=[*HEAD, "is_cc"])})
    found = list_dataset("kinetics400", root, subset=subset)
    assert found.classes == ("air drumming", "opening, closing", "riding a bike", "yoga")
    assert found.listed == (
        Listed(f"{part}/{FILES[0]}", 2),
        Listed(f"{part}/{FILES[1]}", 3),
        Listed(f"{part}/{FILES[2]}", 0),
    )
    assert found.missing == ((FILES[3], "no such file"), (f"{part}/mine.mp4", f"is not in {name}"))
    assert annotation_files("kinetics400", root) == [name]


@pytest.mark.parametrize("part", kinetics.VIDEO_FOLDERS["train"])
def test_kinetics400_labels_are_the_tables(tmp_path, part):
    """Sorted into folders, one of them wrong: the table's word counts.

    Classes are those of both tables.
    """
    root = plant(
        tmp_path / "k", [f"{part}/riding a bike/{FILES[0]}", f"{part}/riding_a_bike/{FILES[1]}"]
    )
    texts(
        root,
        {
            "annotations/train.csv": table(ROWS[:2]),
            "annotations/val.csv": table(ROWS[2:], split="val"),
        },
    )
    found = list_dataset("kinetics400", root)
    assert (
        [found.classes[entry.label] for entry in found.listed] == ["riding a bike", "yoga"]
        and len(found.classes) == 4
        and not found.missing
    )


TABLES = {
    "another table": (["path_to_video 3"], "no column"),
    "no column": (table(head=HEAD[:2]), "no column 'time_start'"),
    "cut in a line": ([*table(), "yoga,abc"], "line 6"),
    "cut in a quote": ([*table(), '"yoga,abc,1,2,train'], "unexpected end"),
    "no number": (table([("yoga", "abc", "x", 1)]), "line 2"),
    "not finite": (table([("yoga", "abc", "NaN", "inf")]), "line 2"),
    "no label": (table([("", "abc", 1, 11)]), "line 2: no label"),
    "empty": ([], "no column"),
    "no row": (table([]), "no video"),
    "binary": (["\0\1"], "not a text file"),
    "nothing there": (
        table([("yoga", "../../etc/passwd", 1, 2), ("yoga", "/etc/passwd", 1, 2)]),
        "none of the listed videos is there",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_kinetics400_tables_that_lie(tmp_path, name):
    """One line each. An id is compared with the names that are there, so that it leads nowhere."""
    lines, said = TABLES[name]
    root = texts(plant(tmp_path / "k", [f"train/{FILES[0]}"]), {"train.csv": lines})
    assert said in refused("kinetics400", root)


def test_kinetics400_a_video_in_two_rows(tmp_path):
    """2026-11: with two labels the last one counted, and nobody was told."""
    rows = [("yoga", "abc", 1, 11), ("yoga", "abc", 1, 11), ("abseiling", "abc", 1, 11)]
    spaced = [line.replace(",", ", ") for line in table(rows)]
    root = plant(tmp_path / "k", ["train/yoga/abc_000001_000011.mp4"])
    found = list_dataset("kinetics400", texts(root, {"train.csv": spaced}))
    assert found.listed == (Listed("train/yoga/abc_000001_000011.mp4", 1),)
    assert found.missing == (
        ("abc_000001_000011.mp4", "no such file"),
        ("train/yoga/abc_000001_000011.mp4", "is listed twice"),
    )
    root = plant(tmp_path / "flat", ["train/abc_000001_000011.mp4"])
    assert "is not clear" in refused("kinetics400", texts(root, {"train.csv": spaced}))


def test_kinetics400_half_of_the_tables(tmp_path):
    """With the training table alone, labels of validation would come from elsewhere: refused."""
    root = texts(
        plant(tmp_path / "k", [f"{part}/yoga/{FILES[1]}" for part in ("train", "val")]),
        {"train.csv": table()},
    )
    assert len(list_dataset("kinetics400", root).listed) == 1
    assert "train.csv lies here, but no val.csv" in refused("kinetics400", root, subset="test")


@pytest.mark.parametrize("top", ["videos/", ""])
def test_kinetics400_folders(tmp_path, top):
    """Without a table folders are the classes, those of both parts."""
    root = plant(
        tmp_path / "k",
        [
            f"{top}{name}"
            for name in (
                "train_split/yoga/abc_000001_000011.mp4",
                "train_split/abseiling/def_000001_000011.mp4",
                "val_split/yoga/ghi_000002_000012.mp4",
            )
        ],
    )
    train, test = (
        list_dataset("kinetics400", root),
        list_dataset("kinetics400", root, subset="test"),
    )
    assert (
        train.classes == test.classes == ("abseiling", "yoga")
    )  # though validation has no abseiling
    assert test.listed == (Listed(f"{top}val_split/yoga/ghi_000002_000012.mp4", 1),) and [
        entry.label for entry in train.listed
    ] == [0, 1]
    plant(root, [f"{top}val_split/loose.mp4"])
    (reason,) = list_dataset("kinetics400", root, subset="test").missing
    assert reason[0] == f"{top}val_split/loose.mp4" and "lies in no class" in reason[1]
    assert "no folder videos/val_split" in refused(
        "kinetics400", ucf101(tmp_path / "U", NAMES[:1]), subset="test"
    )


# ---- Oops!


@pytest.mark.parametrize("form,written", [(a, b) for a in ("NFC", "NFD") for b in ("NFC", "NFD")])
@pytest.mark.parametrize("top", ["oops_dataset/", ""])
def test_oops(tmp_path, top, form, written):
    """Root above or in oops_dataset, both normal forms, filtered and not.

    NaN beside the times, as Python's own json writes it, does no harm.
    """
    root = oops(tmp_path / "O", top, form, written)
    names = [f"{top}oops_video/train/{unicodedata.normalize(form, name)}.mp4" for name in FAILS]
    every, filtered = list_dataset("oops", root), list_dataset("oops-filtered", root)
    assert every.listed == tuple(
        Listed(name, -1, "", tuple(times or ())) for name, times in zip(names, TIMES)
    )
    assert (
        filtered.listed == every.listed[::2]
        and every.classes == ()
        and not every.missing
        and not filtered.missing
    )
    for name in "oops", "oops-filtered":
        assert list_dataset(name, root, subset="test").listed == (
            Listed(f"{top}oops_video/val/val 1.mp4", -1, "", (4, 5, 6)),
        )


def test_oops_opened(tmp_path, clip):
    """The times arrive with the videos, twice: the second time from the index."""
    root = oops(tmp_path / "O", data=clip)
    for _ in range(2):
        found = load_dataset("oops", root, progress=False)
        assert [video.transitions for video in found.videos] == [
            tuple(times or ()) for times in TIMES
        ] and not found.skipped
        assert [Path(video.path).stem for video in found.videos] == FAILS


def test_oops_counts_what_does_not_fit(tmp_path):
    """A name without a video, a video without a name, times without either."""
    root = oops(tmp_path / "O")
    notes = root / "oops_dataset/annotations"
    (root / f"oops_dataset/oops_video/train/{FAILS[0]}.mp4").unlink()
    plant(root, ["oops_dataset/oops_video/train/stray.mp4"])
    times = json.loads((notes / "transition_times.json").read_text()) | {"nobody": {"t": [1, 2, 3]}}
    (notes / "transition_times.json").write_text(json.dumps(times))
    for name in "oops", "oops-filtered":
        found = list_dataset(name, root)
        assert set(found.missing) == {
            ("nobody", "has times, and is in no list"),
            (f"oops_dataset/oops_video/train/{FAILS[0]}.mp4", "no such file"),
            ("oops_dataset/oops_video/train/stray.mp4", "is not in train.txt"),
        }
        assert len(found.listed) == (4 if name == "oops" else 2)
    assert list_dataset("oops", root, subset="test").missing == (
        ("nobody", "has times, and is in no list"),
    )


TIMES_THAT_LIE = {
    "cut": '{"a": {"t": [1, 2, 3]}, "b": {"t": [1',
    "empty": "",
    "a list": "[1, 2]",
    "a number": "7",
    "null": "null",
    "deep": "[" * 100_000,
    "no table": '{"a": [1, 2, 3]}',
    "no t": '{"a": {"len": 3}}',
    "t is a number": '{"a": {"t": 3}}',
    "t is a text": '{"a": {"t": "123"}}',
    "text in t": '{"a": {"t": [1, "2", 3]}}',
    "null in t": '{"a": {"t": [1, null, 3]}}',
    "true in t": '{"a": {"t": [1, true, 3]}}',
    "NaN": '{"a": {"t": [1, NaN, 3]}}',
    "infinite": '{"a": {"t": [1, Infinity, 3]}}',
    "overflow": '{"a": {"t": [1, 1e999, 3]}}',
    "negative": '{"a": {"t": [1, -2, 3]}}',
    "huge": '{"a": {"t": [1, 1' + "0" * 5000 + ", 3]}}",
    "control": '{"a\\n\\u001b[31m": {"t": 1}}',
    "binary": "\0\1",
    "surrogate": '{"\\ud800": {"t": 1}}',
}


@pytest.mark.parametrize("name", TIMES_THAT_LIE)
def test_oops_times_that_lie(tmp_path, name):
    """One line each, that names the file."""
    root = oops(tmp_path / "O")
    (root / "oops_dataset/annotations/transition_times.json").write_text(TIMES_THAT_LIE[name])
    text = refused("oops", root)
    assert "transition_times.json" in text and "\x1b" not in text


def test_oops_lists_that_lie(tmp_path):
    root = oops(tmp_path / "O")
    notes = root / "oops_dataset/annotations"
    for lines, said in {
        "../../../../etc/passwd\n": "leads out",
        "/etc/passwd\n": "leads out",
        "\n \n": "lists no video",
        "gone\n": "none of the listed",
    }.items():
        (notes / "train_filtered.txt").write_text(lines)
        assert said in refused("oops-filtered", root)
    assert len(list_dataset("oops", root).listed) == 5
    (notes / "train.txt").unlink()
    assert "train.txt: no such file" in refused("oops", root)
    shutil.rmtree(notes)
    assert "no folder oops_dataset/annotations" in refused("oops", root)
    shutil.rmtree(root / "oops_dataset/oops_video")
    assert "no folder oops_dataset/oops_video/train" in refused("oops", root)


# ---- folders


def test_folder(tmp_path):
    """Labelled by folder, or at any depth without labels.

    What is no video is no file of the dataset.
    """
    root = plant(tmp_path / "f", ["b/2.mp4", "a/1.MP4", "a/3.mkv", "c/notes.txt"])
    found = list_dataset("folder", root)
    assert found.listed == (Listed("a/1.MP4", 0), Listed("a/3.mkv", 0), Listed("b/2.mp4", 1))
    assert found.classes == ("a", "b")
    for extra in "deep/er/4.mp4", "5.webm":
        found = list_dataset("folder", plant(root, [extra]))
        assert extra in paths(found)
        assert found.classes == ()
        assert {entry.label for entry in found.listed} == {-1}
        (root / extra).unlink()
    text = refused("folder", root, subset="test")
    assert "no test videos" in text
    assert "train/class/name.mp4" in text
    assert "--dataset csv" in text
    (tmp_path / "empty").mkdir()
    assert "no video files" in refused("folder", tmp_path / "empty")


@pytest.mark.parametrize("test", ["test", "val"])
def test_folder_with_train_and_test(tmp_path, test):
    """Classes are those of train, so each keeps its number; what lies in no class is named."""
    train = ["train/run/1.mp4", "train/jump/2.mp4", "train/walk/deep/3.mp4"]
    root = plant(tmp_path / "f", [*train, f"{test}/run/4.mp4", f"{test}/walk/5.mp4"])
    plant(root, ["train/stray.mp4", f"{test}/stray.mp4", "elsewhere/6.mp4"])
    found = list_dataset("folder", root)
    assert found.classes == ("jump", "run", "walk")
    assert found.listed == (Listed(train[1], 0), Listed(train[0], 1), Listed(train[2], 2))
    assert found.missing == (("train/stray.mp4", "lies in no class, as train/class/name.mp4"),)
    found = list_dataset("folder", root, subset="test")
    assert found.classes == ("jump", "run", "walk")
    assert found.listed == (Listed(f"{test}/run/4.mp4", 1), Listed(f"{test}/walk/5.mp4", 2))
    plant(root, [f"{test}/swim/7.mp4"])
    assert f"{test} has the class 'swim', which train lacks" in refused(
        "folder", root, subset="test"
    )
    assert len(list_dataset("folder", root).listed) == 3


def test_folder_with_train_and_test_without_labels(tmp_path):
    root = plant(tmp_path / "f", ["train/1.mp4", "train/2.mp4", "test/3.mp4"])
    assert paths(list_dataset("folder", root)) == ["train/1.mp4", "train/2.mp4"]
    test = list_dataset("folder", root, subset="test")
    assert test.listed == (Listed("test/3.mp4"),)
    assert test.classes == ()


def test_folder_with_train_alone(tmp_path):
    """It is the training part; but beside other classes `train` is a class like them."""
    root = plant(tmp_path / "f", ["train/run/1.mp4", "train/jump/2.mp4"])
    assert list_dataset("folder", root).classes == ("jump", "run")
    assert "no folder test or val" in refused("folder", root, subset="test")
    vehicles = plant(tmp_path / "v", ["train/1.mp4", "bus/2.mp4"])
    assert list_dataset("folder", vehicles).classes == ("bus", "train")
    empty = plant(tmp_path / "e", ["train/run/1.mp4", "test/notes.txt"])
    assert "test: no video files" in refused("folder", empty, subset="test")


# ---- csv

TRAIN = ["path,label,group", "a/1.mp4,run,home", "2.mp4,jump,park", "b/3.mp4,run,"]


def csv_tree(root, train=TRAIN, test=("path,label", "4.mp4,run")):
    plant(root, ["a/1.mp4", "2.mp4", "b/3.mp4", "4.mp4"])
    return texts(root, {"train.csv": train, "test.csv": test})


@pytest.mark.parametrize("newline,mark", [("\n", ""), ("\r\n", "\ufeff")])
def test_csv(tmp_path, newline, mark):
    """Labels, groups and order are the table's; a file that no table names is counted."""
    root = csv_tree(tmp_path / "c")
    texts(root, {"train.csv": [mark + TRAIN[0], *TRAIN[1:]]}, newline)
    plant(root, ["mine.mp4"])
    found = list_dataset("csv", root)
    assert found.classes == ("jump", "run")
    assert found.listed == (
        Listed("a/1.mp4", 1, "home"),
        Listed("2.mp4", 0, "park"),
        Listed("b/3.mp4", 1),
    )
    assert found.missing == (("mine.mp4", "is in neither train.csv nor test.csv"),)
    found = list_dataset("csv", root, subset="test")
    assert found.listed == (Listed("4.mp4", 1),)
    assert found.classes == ("jump", "run")
    assert annotation_files("csv", root) == ["test.csv", "train.csv"]


def test_csv_counts_what_is_missing_and_listed_twice(tmp_path):
    root = csv_tree(tmp_path / "c", [*TRAIN, "gone.mp4,run,", "a/../2.mp4,run,"])
    assert list_dataset("csv", root).missing == (
        ("gone.mp4", "no such file"),
        ("2.mp4", "is listed twice"),
    )


def test_csv_needs_no_test_and_takes_any_suffix(tmp_path):
    """Numbers are sorted by value: label 10 after label 9."""
    rows = [f"{label}.video,{label}" for label in (10, 9, 0)]
    root = plant(tmp_path / "c", ["10.video", "9.video", "0.video"])
    texts(root, {"train.csv": ["path, label", *rows]})
    found = list_dataset("csv", root)
    assert found.classes == ("0", "9", "10")
    assert found.listed == (Listed("10.video", 2), Listed("9.video", 1), Listed("0.video", 0))
    assert "test.csv: no such file" in refused("csv", root, subset="test")


WRONG_TABLES = {
    "no column path": (["file,label", "2.mp4,run"], "no column 'path'"),
    "no column label": (["path,class", "2.mp4,run"], "no column 'label'"),
    "other separator": (["path;label", "2.mp4;run"], "no column 'path'"),
    "empty": ([], "no column 'path'"),
    "no rows": (["path,label"], "lists no video"),
    "no label": (["path,label", "2.mp4,"], "line 2: no path or no label"),
    "no path": (["path,label", ",run"], "line 2: no path or no label"),
    "short row": (["path,label", "2.mp4"], "line 2: no path or no label"),
    "a path that leads out": (["path,label", "a/../../x.mp4,run"], "leads out"),
    "a path from the top": (["path,label", "/etc/passwd,run"], "leads out"),
    "cut in a quote": (["path,label", '"2.mp4,run'], "unexpected end"),
    "a binary file": (["\0\1"], "not a text file"),
    "nothing there": (["path,label", "x.mp4,run"], "none of the listed videos is there"),
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_csv_tables_that_lie(tmp_path, name):
    """One line each, and it names the table."""
    lines, reason = WRONG_TABLES[name]
    text = refused("csv", csv_tree(tmp_path / "c", lines))
    assert reason in text
    assert "train.csv" in text or name == "nothing there"


def test_csv_label_that_only_the_test_has(tmp_path):
    root = csv_tree(tmp_path / "c", test=["path,label", "4.mp4,swim"])
    text = refused("csv", root, subset="test")
    assert "4.mp4 has the label 'swim', which train.csv lacks" in text
    assert len(list_dataset("csv", root).listed) == 3
    (root / "train.csv").unlink()
    assert "train.csv: no such file" in refused("csv", root)


# ---- datasets of one's own


@pytest.fixture
def own_name():
    """A name that is free again after the test."""
    yield "mine"
    DATASETS._values.pop("mine", None)


def list_mine(root, split, subset):
    """Every video of the folder `subset`N, all of one class."""
    listed = [Listed(path, 0) for path in video_paths(root, f"{subset}{split}")]
    return Listing(["thing"], listed)


def test_a_dataset_of_ones_own(tmp_path, own_name):
    """Registered under a name it is listed, loaded and copied like the others."""
    root = plant(tmp_path / "m", ["train1/a.mp4", "train2/b.mp4", "test2/c.mp4"])
    texts(root, {"notes/list.txt": ["x"]})
    for _ in range(2):  # a notebook's cell may run twice
        register_dataset(own_name, list_mine, splits=2, annotations=["notes/*.txt"])
    assert number_of_splits(own_name) == 2
    assert paths(list_dataset(own_name, root, 2)) == ["train2/b.mp4"]
    assert annotation_files(own_name, root) == ["notes/list.txt"]
    assert "mine has 2" in refused(own_name, root, split=3)
    with pytest.raises(ConfigError, match="registered already"):
        register_dataset("ucf101", list_mine)
    with pytest.raises(ConfigError, match="mine"):
        list_dataset("unknown", root)


def test_functions_that_return_something_else(tmp_path, own_name):
    """One line that names the dataset, and no surprise later."""
    plant(tmp_path, ["a.mp4"])
    returned = {"list": ["a.mp4"], "label 3": Listing(["thing"], [Listed("a.mp4", 3)])}
    for wanted, value in returned.items():
        DATASETS._values.pop(own_name, None)
        register_dataset(own_name, lambda root, split, subset, value=value: value)
        assert wanted in refused(own_name, tmp_path)


def test_every_layout_has_splits_and_its_lists():
    """One entry carries function, splits and patterns."""
    assert set(LAYOUTS) <= set(DATASETS.names())
    assert [number_of_splits(name) for name in LAYOUTS] == [3, 3, 1, 1, 1, 1, 1]
    assert all(DATASETS[name].annotations for name in LAYOUTS if name != "folder")


# ---- folders, links and names


def test_names_that_are_not_text(tmp_path, clip):
    """Latin-1 names on a UTF-8 system, line ends and escapes in names.

    Listed, read, and written about in one line.
    """
    good, bad = (
        os.fsdecode(b"caf\xe9/v\xff [1] (2) & ; !'\".avi"),
        os.fsdecode(b"caf\xe9/bad\xfe\n\x1b[31m.avi"),
    )
    root = plant(plant(tmp_path / "f", [bad]), [good], clip)
    found = load_dataset("folder", root, progress=False)
    assert (
        [video.path for video in found.videos] == [good]
        and found.classes == (os.fsdecode(b"caf\xe9"),)
        and [name for name, _ in found.skipped] == [bad]
    )
    assert printable(bad) == "caf\\udce9/bad\\udcfe\\n\\x1b[31m.avi"
    (root / good).unlink()
    (root / bad).rename(root / "x\ny.txt")
    assert "no video files" in refused("folder", root)


def test_links(tmp_path):
    """Followed, never in circles, never to a folder under a second name.

    And whatever is not entered is named.
    """
    root = plant(tmp_path / "data/f", ["a/1.avi"])
    plant(tmp_path / "elsewhere", ["2.avi", "in/3.avi"])
    (root / "b").symlink_to(tmp_path / "elsewhere")
    for name, target in {
        "a/up": root,
        "a/top": "/",
        "a/self": root / "a",
        "a/parent": "..",
        "b/back": root / "b",
        "b/out": tmp_path,
    }.items():
        (root / name).symlink_to(target)
    (root / "a/gone.avi").symlink_to("nowhere.avi")
    (root / "a/round.avi").symlink_to("round.avi")
    (root / "c").symlink_to(tmp_path / "elsewhere/in")
    missing = []
    assert video_paths(root, "", missing) == [
        "a/1.avi",
        "a/gone.avi",
        "a/round.avi",
        "b/2.avi",
        "b/in/3.avi",
    ]
    assert {name for name, _ in missing} == {
        "a/up",
        "a/top",
        "a/self",
        "a/parent",
        "b/back",
        "b/out",
        "c",
    }
    assert list_dataset("folder", root).missing == tuple(missing)


def test_links_that_would_take_forever(tmp_path):
    """Thirty floors with two links each to the next.

    A thousand million ways down, and every folder is entered once.
    """
    for floor in range(30):
        (tmp_path / f"f/{floor:02d}").mkdir(parents=True)
        for name in "ab":
            (tmp_path / f"f/{floor:02d}/{name}").symlink_to(tmp_path / f"f/{floor + 1:02d}")
    plant(tmp_path / "f/29", ["x.avi"])
    missing = []
    assert (
        video_paths(tmp_path / "f/00", "", missing) == ["a/" * 29 + "x.avi"] and len(missing) == 29
    )


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """It is named, and the others are listed."""
    root, scandir = plant(tmp_path / "f", ["a/1.avi", "b/2.avi"]), os.scandir

    def closed(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = list_dataset("folder", plant(root, ["c/3.avi"]))
    assert paths(found) == ["a/1.avi", "c/3.avi"] and found.missing == (
        ("b", "is a folder that cannot be read (Permission denied)"),
    )
    assert found.classes == ("a", "b", "c")  # 2026-11: the label of c became 1
    parts = plant(tmp_path / "p", [f"train/{path}" for path in paths(found)])
    plant(parts, ["train/b/2.avi", "test/c/3.avi"])
    for subset in "train", "test":
        listing = list_dataset("folder", parts, subset=subset)
        assert listing.classes == ("a", "b", "c")
        assert listing.listed[-1].label == 2


def test_folders_as_deep_as_the_system_allows(tmp_path):
    """Paths longer than the system takes: listed as far as it goes, and the rest is named."""
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("deep" * 50, dir_fd=place)
        place, above = os.open("deep" * 50, os.O_RDONLY, dir_fd=place), place
        os.close(above)
    os.close(os.open("x.avi", os.O_CREAT, dir_fd=place))
    os.close(place)
    missing = []
    assert (
        video_paths(tmp_path, "", missing) == []
        and len(missing) == 1
        and "File name too long" in missing[0][1]
    )
    plant(tmp_path, ["deep/1.avi"])
    assert video_paths(tmp_path) == ["deep/1.avi"]


def test_listing_asks_folders_not_files(tmp_path, monkeypatch):
    """Ten thousand files in a hundred folders, and no question about a single file."""
    root = plant(tmp_path / "f", [f"{i // 100:03d}/{i:05d}.mp4" for i in range(10_000)])
    asked = []

    def watch(call):
        def watched(path, *args, **more):
            asked.append(str(path))
            return call(path, *args, **more)

        return watched

    monkeypatch.setattr(os, "stat", watch(os.stat))
    monkeypatch.setattr(os, "lstat", watch(os.lstat))
    found = list_dataset("folder", root)
    assert len(found.listed) == 10_000
    assert len(found.classes) == 100
    assert not any(path.endswith(".mp4") for path in asked)


# ---- spoiled lists, and copies


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "folder"])
def test_spoiled_lists(tmp_path, name):
    """Truncated anywhere, bytes flipped, pieces repeated.

    A listing of files that are there, or one line.
    """
    root, rng, ends = build(name, tmp_path / "it"), np.random.default_rng(0), Counter()
    for i in range(150):
        path = root / (files := annotation_files(name, root))[i % len(files)]
        good = path.read_bytes()
        data = bytearray(good)
        if i % 3 == 0:
            del data[rng.integers(len(data)) :]
        elif i % 3 == 1:
            for place in rng.integers(len(data), size=3):
                data[place] ^= 1 << rng.integers(8)
        else:
            start, stop = sorted(rng.integers(len(data), size=2))
            data[start:start] = data[start:stop]
        path.write_bytes(data)
        try:
            found = list_dataset(name, root)
            assert all(
                (root / entry.path).is_file() and -1 <= entry.label < max(len(found.classes), 1)
                for entry in found.listed
            )
            ends["listed"] += 1
        except MemdpcError as error:
            assert "\n" not in str(error) and str(error).encode()
            ends["refused"] += 1
        path.write_bytes(good)
    assert min(ends["listed"], ends["refused"]) > 5


@pytest.mark.parametrize("name", LAYOUTS)
def test_annotation_files_make_a_copy_a_dataset(tmp_path, name):
    """The files of `annotation_files` and the videos, copied elsewhere, are the same dataset."""
    root, other = tmp_path / "it", tmp_path / "copy"
    build(name, root)
    plant(root, ["notes/other.csv", "readme.md"])
    parts = ["train"] if name == "folder" else ["train", "test"]
    listings = [list_dataset(name, root, subset=subset) for subset in parts]
    for path in {*annotation_files(name, root), *sum(map(paths, listings), [])}:
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, other / path)
    again = [list_dataset(name, other, subset=subset) for subset in parts]
    assert [part[:2] for part in again] == [part[:2] for part in listings] and not (
        other / "notes"
    ).exists()
    assert not any(os.path.isabs(path) or ".." in path for path in annotation_files(name, root))
