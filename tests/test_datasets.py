"""Lists of videos from layouts good and bad, the index that outlives kills, and clips that are the same whoever asks."""
import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import wave
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdpc import datasets
from memdpc.datasets import Clips, DatasetError, Index, clip_frames, clip_start, hold_out, load_dataset
from memdpc.video import MemdpcError, read_frames, write_video

SPLITS = Path(__file__).resolve().parent.parent.parent / "shared/data/ucf101_splits"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An index of its own for each test."""
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def numbered(frames, side=16):
    """Frame t is grey of brightness 6t: [T, H, W, 3]."""
    return np.broadcast_to((6 * np.arange(frames) % 256).astype(np.uint8)[:, None, None, None], (frames, side, side, 3))


def video(path, frames=8, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"aside{path.suffix}")            # a name that is not UTF-8 is FFmpeg's to refuse, not ours to test here
    write_video(aside, numbered(frames, side), codec="mpeg4", options={"g": "4"})
    os.replace(aside, path)
    return path


def ucf101(root, names, classes=("Archery", "Biking"), newline="\n", lists=None):
    """A small tree in UCF101's layout: `names` as Class/v_Class_gXX_cYY.avi; all in trainlist01 unless `lists` says otherwise."""
    for name in names:
        video(root / "videos" / name)
    splits = root / "splits_classification"
    splits.mkdir(parents=True)
    texts = {"classInd": [f"{i} {name}" for i, name in enumerate(classes, 1)],
             "trainlist01": [f"{name} {classes.index(name.split('/')[0]) + 1}" for name in names]} | (lists or {})
    for name, lines in texts.items():
        (splits / f"{name}.txt").write_bytes(newline.join([*lines, ""]).encode())
    return root


NAMES = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("Archery", "Biking") for group in (1, 2, 3)]


@pytest.fixture
def tree(tmp_path):
    return ucf101(tmp_path / "UCF101", NAMES)


def refused(*args, **more):
    """The one line of the error, which the command line turns into exit status 2."""
    with pytest.raises(MemdpcError) as error:
        load_dataset(*args, progress=False, **more)
    text = str(error.value)
    assert "\n" not in text and text.encode()                # can be written to any terminal
    return text


def load(*args, **more):
    return load_dataset(*args, progress=False, **more)


# ---- UCF101

def test_official_lists(tmp_path):
    """The real split files, cut to six classes, with CRLF as they come; labels, groups and counts against a plain reading of the lines."""
    if not SPLITS.exists():
        pytest.skip("no shared split files beside this checkout")
    wanted = {"ApplyEyeMakeup", "HandstandPushups", "YoYo"}
    root = tmp_path / "UCF101"
    (root / "ucfTrainTestlist").mkdir(parents=True)
    (root / "ucfTrainTestlist/classInd.txt").write_bytes((SPLITS / "classInd.txt").read_bytes())
    one = video(tmp_path / "one.avi").read_bytes()
    listed = {}
    for path in SPLITS.glob("t*list0?.txt"):
        lines = [line for line in path.read_text().splitlines() if line.split("/")[0] in wanted]
        (root / "ucfTrainTestlist" / path.name).write_bytes("\r\n".join(lines).encode())
        listed[path.stem] = lines
        for line in lines:
            file = root / "videos" / line.split()[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(one)
    classes = [line.split()[1] for line in (SPLITS / "classInd.txt").read_text().splitlines()]
    for stem, lines in listed.items():
        found = load("ucf101", root, split=int(stem[-1]), subset=stem[:-6])
        assert len(found) == len(lines) and not found.skipped and found.classes == tuple(classes) and len(classes) == 101
        for entry, line in zip(found.videos, lines, strict=True):
            name = line.split()[0]
            assert entry.path == f"videos/{name}" and entry.group == re.search(r"_(g\d\d)_", name)[1] and classes[entry.label] == name.split("/")[0]
            assert len(line.split()) == 1 or entry.label == int(line.split()[1]) - 1
    groups = [{entry.group for entry in load("ucf101", root, 1, subset).videos} for subset in ("train", "test")]
    assert not groups[0] & groups[1] and len(groups[0]) == 18 and len(groups[1]) == 7


@pytest.mark.parametrize("folder,file,line", [(a, b, c) for a in ("HandstandPushups", "HandStandPushups") for b in ("stand", "Stand") for c in ("stand", "Stand")])
def test_handstand_pushups_in_every_spelling(tmp_path, folder, file, line):
    root = ucf101(tmp_path / "U", [], ["Archery", "HandstandPushups"],
                  lists={"trainlist01": [f"Hand{line}Pushups/v_HandStandPushups_g01_c01.avi 2"]})
    video(root / "videos" / folder / f"v_Hand{file}Pushups_g01_c01.avi")
    found = load("ucf101", root)
    assert [(entry.label, entry.group) for entry in found.videos] == [(1, "g01")] and found.path(0).is_file()


def test_two_names_that_differ_in_case_are_two_videos(tmp_path):
    names = ["Archery/v_Archery_g01_c01.avi", "Archery/V_ARCHERY_g01_c01.avi"]
    found = load("ucf101", ucf101(tmp_path / "U", names))
    assert [entry.path for entry in found.videos] == [f"videos/{name}" for name in names]


@pytest.mark.parametrize("newline,mark", [("\r\n", b""), ("\n", b"\xef\xbb\xbf"), ("\r\n\r\n  ", b"\xef\xbb\xbf"), ("\r", b"")])
def test_line_ends_marks_and_blank_lines(tmp_path, newline, mark):
    plain, other = ucf101(tmp_path / "a", NAMES), ucf101(tmp_path / "b", NAMES, newline=newline)
    for path in (other / "splits_classification").iterdir():
        path.write_bytes(mark + path.read_bytes())
    assert load("ucf101", plain).videos == load("ucf101", other).videos


def test_order_is_the_lists_and_classes_are_numbered_by_classind(tmp_path):
    names = [NAMES[i] for i in (4, 0, 5, 2)]
    root = ucf101(tmp_path / "U", names, lists={"classInd": ["20 Archery", "3 Biking"], "trainlist01": [f"{n} {20 if n[0] == 'A' else 3}" for n in names]})
    found = load("ucf101", root)
    assert [entry.path for entry in found.videos] == [f"videos/{name}" for name in names]
    assert found.classes == ("Biking", "Archery") and [entry.label for entry in found.videos] == [0, 1, 0, 1]


LINE = NAMES[0]
WRONG = {
    "a class that is not listed": ({"trainlist01": ["Fencing/v_Fencing_g01_c01.avi 3"]}, "classInd.txt lacks"),
    "no class": ({"trainlist01": ["v_Archery_g01_c01.avi 1"]}, "classInd.txt lacks"),
    "a number that disagrees": ({"trainlist01": [f"{LINE} 2"]}, "the number of Archery is 1"),
    "a path that leads out": ({"trainlist01": ["Archery/../../../etc/passwd 1"]}, "outside"),
    "a path that leads up": ({"trainlist01": ["../../etc/passwd 1"]}, "classInd.txt lacks"),
    "a path from the top": ({"trainlist01": ["/etc/passwd 1"]}, "classInd.txt lacks"),
    "an empty list": ({"trainlist01": []}, "lists no video"),
    "blank lines": ({"trainlist01": ["", "  ", ""]}, "lists no video"),
    "no classes": ({"classInd": []}, "lists no class"),
    "a class without a number": ({"classInd": ["Archery", "2 Biking"]}, "'Archery'"),
    "a number without a class": ({"classInd": ["1 Archery", "2"]}, "'2'"),
    "a class twice": ({"classInd": ["1 Archery", "2 Archery"]}, "of its own"),
    "a number twice": ({"classInd": ["1 Archery", "1 Biking"]}, "of its own"),
    "a binary file": ({"trainlist01": ["\0\1\2"]}, "no text file"),
    "nothing that is there": ({"trainlist01": ["Archery/v_Archery_g09_c01.avi 1"]}, "none of the 1 videos can be read"),
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
    (tree / "splits_classification/trainlist01.txt").write_bytes(b"Archery/v_\xe9.avi 1\n")
    assert "UTF-8" in refused("ucf101", tree)
    os.rename(tree / "splits_classification", tree / "splits")
    assert "splits_classification or ucfTrainTestlist" in refused("ucf101", tree)


# ---- bad files among good

def sound():
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    return data.getvalue()


def titled(path):
    """A video whose title is not UTF-8, which a plain `av.open` refuses."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = 16, 16
        for frame in numbered(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"\xe9\xff\xfeLE"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))


def test_bad_files_are_counted_and_listed(tree, caplog):
    good = (tree / "videos" / NAMES[5]).read_bytes()
    for i, data in enumerate((good[:900], b"", b"no video\n" * 99, sound())):
        (tree / "videos" / NAMES[i]).write_bytes(data)
    titled(tree / "videos" / NAMES[4])
    single = video(tree / "videos/Biking/v_Biking_g09_c01.avi", frames=1)
    with open(tree / "splits_classification/trainlist01.txt", "a") as file:
        file.write("Biking/v_Biking_g09_c01.avi 2\nBiking/v_Biking_g08_c01.avi 2\n" + NAMES[5] + " 2\n")
    with caplog.at_level(logging.WARNING):
        found = load("ucf101", tree)
    assert [entry.path for entry in found.videos] == [f"videos/{name}" for name in (NAMES[4], NAMES[5])] + [str(single.relative_to(tree))]
    assert [entry.info.frames for entry in found.videos] == [8, 8, 1]
    reasons = dict(found.skipped)
    assert len(found.skipped) == 6 and reasons["videos/Biking/v_Biking_g08_c01.avi"] == "no such file" and reasons[f"videos/{NAMES[5]}"] == "is listed twice"
    assert reasons[f"videos/{NAMES[1]}"] == "is empty" and all("\n" not in reason for reason in reasons.values())
    assert "6 of 9 videos are left out" in caplog.text


def test_a_list_longer_than_the_download(tmp_path):
    """Half of a dataset is there: the rest is counted, and nothing crashes."""
    root = ucf101(tmp_path / "U", NAMES)
    for name in NAMES[::2]:
        (root / "videos" / name).unlink()
    found = load("ucf101", root)
    assert len(found) == 3 and Counter(reason for _, reason in found.skipped) == {"no such file": 3}


# ---- folders

def test_folder(tmp_path):
    for name in "b/2.mp4", "a/1.MP4", "a/3.mkv", "c/x.webm":
        video(tmp_path / "f" / name) if not name.endswith("webm") else (tmp_path / "f/c").mkdir(exist_ok=True)
    (tmp_path / "f/c/notes.txt").write_text("no video, and not listed")
    found = load("folder", tmp_path / "f")
    assert [(entry.path, entry.label) for entry in found.videos] == [("a/1.MP4", 0), ("a/3.mkv", 0), ("b/2.mp4", 1)] and found.classes == ("a", "b")
    video(tmp_path / "f/deep/er/4.mp4")
    found = load("folder", tmp_path / "f")
    assert len(found) == 4 and found.classes == () and {entry.label for entry in found.videos} == {-1}
    assert "no test videos" in refused("folder", tmp_path / "f", subset="test")
    (tmp_path / "empty").mkdir()
    assert "no video files" in refused("folder", tmp_path / "empty")


def test_names_that_are_not_text(tmp_path, capfd):
    """Latin-1 names on a UTF-8 system: listed, read, kept in the index, and written about without a crash."""
    root = tmp_path / "f"
    good = video(root / os.fsdecode(b"caf\xe9") / os.fsdecode(b"v\xff [1] (2) & ; !'\".avi"))
    bad = good.with_name(os.fsdecode(b"bad\xfe.avi"))
    bad.write_bytes(b"")
    logging.getLogger("memdpc.datasets").addHandler(handler := logging.StreamHandler(io.TextIOWrapper(io.BytesIO(), "utf-8")))
    try:
        found = load("folder", root)
        handler.flush()
    finally:
        logging.getLogger("memdpc.datasets").removeHandler(handler)
    assert len(found) == 1 and found.classes == (os.fsdecode(b"caf\xe9"),) and len(found.skipped) == 1
    assert load("folder", root) == found and Index(root).fresh(found.videos[0].path)
    assert Clips(found, 2, 2, 1, 16)[0]["clip"].shape == (2, 3, 2, 16, 16)
    good.unlink()
    assert "can be read" in refused("folder", root)


def test_links(tmp_path):
    """Followed, but never round in circles, and a link to nowhere is listed."""
    root = tmp_path / "data/f"
    video(root / "a/1.avi")
    video(tmp_path / "elsewhere/2.avi")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    for name, target in {"a/up": root, "a/top": "/", "a/self": root / "a", "a/parent": "..", "b/back": root / "b"}.items():
        (root / name).symlink_to(target)
    (root / "a/gone.avi").symlink_to("nowhere.avi")
    (root / "a/round.avi").symlink_to("round.avi")
    found = load("folder", root)
    assert [entry.path for entry in found.videos] == ["a/1.avi", "b/2.avi"]
    reasons = dict(found.skipped)
    assert reasons.keys() == {"a/gone.avi", "a/round.avi"} and reasons["a/gone.avi"] == "no such file"
    (tmp_path / "elsewhere/across").symlink_to(root / "a")       # two folders that hold links to each other
    (root / "a/across").symlink_to(tmp_path / "elsewhere")
    assert sorted(datasets.below(root)) == sorted(set(datasets.below(root))) and len(list(datasets.below(root))) < 20


def test_kinetics400(tmp_path):
    root = tmp_path / "k"
    for name in "train_split/yoga/abc_000001_000011.mp4", "train_split/abseiling/def_000001_000011.mp4", "val_split/yoga/ghi_000002_000012.mp4":
        video(root / "videos" / name)
    train, test = load("kinetics400", root), load("kinetics400", root, subset="test")
    assert train.classes == test.classes == ("abseiling", "yoga")         # though validation has no abseiling
    assert [(entry.path, entry.label) for entry in test.videos] == [("videos/val_split/yoga/ghi_000002_000012.mp4", 1)]
    assert [entry.label for entry in train.videos] == [0, 1]
    video(root / "videos/val_split/loose.mp4")
    assert "lies in no class" in refused("kinetics400", root, subset="test")
    assert "no folder val_split" in refused("kinetics400", ucf101(tmp_path / "U", NAMES[:1]), subset="test")


# ---- the index

@pytest.fixture
def opened(monkeypatch):
    """Paths that `describe` was asked for."""
    paths, describe = [], datasets.describe
    monkeypatch.setattr(datasets, "describe", lambda path: paths.append(path) or describe(path))
    return paths


def test_files_are_opened_once(tree, opened, cache):
    first = load("ucf101", tree)
    assert len(opened) == 6
    assert load("ucf101", tree) == first and len(opened) == 6
    video(tree / "videos" / NAMES[2], frames=5)
    assert [entry.info.frames for entry in load("ucf101", tree).videos] == [8, 8, 5, 8, 8, 8] and len(opened) == 7
    (tree / "videos" / NAMES[2]).write_bytes(b"")
    assert len(load("ucf101", tree).skipped) == 1 and len(opened) == 8
    assert len(load("ucf101", tree).skipped) == 1 and len(opened) == 8          # bad files are known as well
    (tree / "videos" / NAMES[2]).unlink()
    for _ in range(3):
        assert dict(load("ucf101", tree).skipped) == {f"videos/{NAMES[2]}": "no such file"}
    assert len(Index(tree).file.read_bytes().split()) < 400                     # a missing file is not noted again and again
    other = tree.with_name("moved")
    tree.rename(other)
    assert len(load("ucf101", other)) == 5


def test_an_index_cut_anywhere_is_mended(tree, opened):
    """A kill in the middle of a line: at most that line is lost, and lines written later are whole."""
    first = load("ucf101", tree)
    index = Index(tree).file
    data = index.read_bytes()
    for cut in {0, 1, len(data) - 1, *np.random.default_rng(0).integers(0, len(data), 20)}:
        index.write_bytes(data[:cut])
        whole = sum(1 for line in data[:cut].split(b"\n") if line.endswith(b"}]"))
        opened.clear()
        assert load("ucf101", tree) == first and len(opened) == 6 - whole
        opened.clear()
        assert load("ucf101", tree) == first and not opened
    index.write_bytes(b"\n[1]\n7\nnull\n\"ab\"\n\xff\xfe" + data)
    assert load("ucf101", tree) == first


def test_processes_share_an_index(tree, cache):
    code = f"from memdpc.datasets import load_dataset; print(len(load_dataset('ucf101', {str(tree)!r}, progress=False)))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(process.communicate(timeout=60)[0]) for process in running] == [6, 6]
    lines = [line for line in Index(tree).file.read_text().splitlines() if line]
    assert {json.loads(line)[0] for line in lines} == {f"videos/{name}" for name in NAMES}


def test_a_cache_that_cannot_be_written_costs_only_time(tree, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "file/cache"))
    for _ in range(2):
        caplog.clear()
        assert len(load("ucf101", tree)) == 6
        assert caplog.text.count("the index is not kept") == 1


def test_workers_find_the_same(tmp_path, monkeypatch):
    root = tmp_path / "f"
    data = video(root / "000.avi").read_bytes()
    for i in range(1, 80):
        (root / f"{i:03d}.avi").write_bytes(data[:60 * i] if i % 9 == 0 else data)
    alone = load("folder", root)
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "other"))
    assert load("folder", root, num_workers=2) == alone and len(alone) + len(alone.skipped) == 80


def test_a_killed_worker_is_one_line(tmp_path, monkeypatch):
    root = tmp_path / "f"
    data = video(root / "000.avi").read_bytes()
    for i in range(1, 70):
        (root / f"{i:03d}.avi").write_bytes(data)
    monkeypatch.setattr(datasets, "probe", lambda path: os._exit(9) if path.endswith("042.avi") else datasets.read_frames(path, [0]))
    monkeypatch.setattr(datasets, "asdict", lambda info: {})
    assert "was killed" in refused("folder", root, num_workers=2)


# ---- held out by group

@given(groups=st.lists(st.sampled_from(["", "g01", "g02", "g03", "g04"]), min_size=2, max_size=40), fraction=st.floats(0, .9), seed=st.integers(0, 99))
def test_hold_out_parts_no_group(groups, fraction, seed):
    videos = datasets.VideoList("x", Path("."), (), tuple(datasets.Video(f"{i}.avi", 0, group, None) for i, group in enumerate(groups)), ())
    try:
        kept, held = hold_out(videos, fraction, seed)
    except DatasetError:
        assert round(fraction * len({g or i for i, g in enumerate(groups)})) >= len({g or i for i, g in enumerate(groups)}) - 1 or len(set(groups)) == 1
        return
    assert sorted(kept.videos + held.videos, key=videos.videos.index) == list(videos.videos) and len(kept)
    assert not ({v.group for v in kept.videos} & {v.group for v in held.videos}) - {""}
    assert bool(len(held)) == (fraction > 0) and (kept, held) == hold_out(videos, fraction, seed)
    assert list(kept.videos) == [v for v in videos.videos if v in set(kept.videos)]       # order stays


# ---- clips

@given(frames=st.integers(1, 500), num=st.integers(1, 60), stride=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_clips_stay_within_their_video(frames, num, stride, seed):
    span = (num - 1) * stride + 1
    start = clip_start(np.random.default_rng(seed), max(frames - span, 0))
    taken = clip_frames(start, num, stride, frames)
    assert len(taken) == num and taken[0] == start and taken.max() < frames and (np.diff(taken) >= 0).all()
    if frames >= span:
        assert (np.diff(taken) == stride).all()
    else:
        assert start == 0 and taken[-1] == frames - 1


def test_every_length_is_used(tmp_path):
    """2026-11: videos of up to 120 frames were dropped by the released code, where 118 are needed."""
    for frames in 1, 29, 117, 118, 119, 120, 121:
        video(tmp_path / "f" / f"{frames:03d}.avi", frames)
    videos = load("folder", tmp_path / "f")
    clips = Clips(videos, img_size=16)
    assert len(clips) == 7 and clips.span == 118
    for i, entry in enumerate(videos.videos):
        clip = clips[0, i]["clip"]
        assert clip.shape == (8, 3, 5, 16, 16) and clip.dtype == np.uint8 and clip.flags.c_contiguous
        last = read_frames(videos.path(i), [entry.info.frames - 1], 16)[0].transpose(2, 0, 1)
        assert entry.info.frames >= 118 or (clip[-1, :, -1] == last).all()


class Corner:
    """An augmentation that draws a corner and a flip."""
    def draw(self, rng, width, height, frames):
        flip = bool(rng.random() < .5)
        return (int(rng.integers(5)), int(rng.integers(5)), 8, 6), flip, {"colour": rng.random((frames, 5), np.float32)}


def test_clips_are_the_same_in_every_order_and_process(tree):
    from torch.utils.data import DataLoader
    clips = Clips(load("ucf101", tree), 2, 2, 1, 12, seed=3, augment=Corner())
    keys = [(epoch, index) for epoch in (0, 5) for index in (4, 0, 5, 1)]
    alone = {key: clips[key] for key in keys}
    for num_workers in 0, 1, 2:
        loader = DataLoader(pickle.loads(pickle.dumps(clips)), sampler=keys[::-1], batch_size=None, num_workers=num_workers)
        loaded = dict(zip(keys[::-1], loader, strict=True))
        for key, item in alone.items():
            assert all(np.array_equal(item[name], loaded[key][name]) for name in item)
    assert any((alone[0, i]["clip"] != alone[5, i]["clip"]).any() for i in (4, 0, 5, 1))
    assert any((alone[0, 0]["clip"] != Clips(clips.videos, 2, 2, 1, 12, seed=seed, augment=Corner())[0, 0]["clip"]).any() for seed in range(4, 9))


def test_an_item_is_what_it_says(tree):
    clips = Clips(load("ucf101", tree), 2, 2, 2, 12, seed=3, augment=Corner())
    for index in range(6):
        rng = np.random.default_rng([3, 7, index])
        start = rng.integers(8 - 7 + 1)
        crop, flip, extra = Corner().draw(rng, 16, 16, 4)
        frames = read_frames(clips.videos.path(index), start + 2 * np.arange(4), 12, crop)
        frames = frames[:, :, ::-1] if flip else frames
        item = clips[7, index]
        assert all((item["clip"][n, :, t] == frames[2 * n + t].transpose(2, 0, 1)).all() for n in range(2) for t in range(2))
        assert (item["colour"] == extra["colour"]).all() and item["label"] == index // 3 and item["index"] == index and item["broken"] == 0


def test_without_augmentation_the_crop_is_the_central_square(tmp_path):
    write = np.random.default_rng(0).integers(0, 255, (4, 20, 36, 3), dtype=np.uint8)
    (tmp_path / "f").mkdir()
    write_video(tmp_path / "f/wide.avi", write, codec="mpeg4", options={})
    clip = Clips(load("folder", tmp_path / "f"), 2, 2, 1, 20)[0]["clip"]
    whole = read_frames(tmp_path / "f/wide.avi", range(4), crop=(8, 0, 20, 20))
    assert (clip.transpose(0, 2, 3, 4, 1).reshape(whole.shape) == whole).all()
    assert datasets.centre_crop(5, 8) == (0, 1, 5, 5) and datasets.centre_crop(1, 1) == (0, 0, 1, 1)


def test_uniform_clips(tree):
    clips = Clips(load("ucf101", tree), 2, 2, 1, 16, per_video=3)
    assert len(clips) == 18 and [clips[i]["label"] for i in range(18)] == [0] * 9 + [1] * 9
    assert [round(clips[i]["clip"][0, 0, 0].mean() / 6) for i in range(3)] == [0, 2, 4]     # frame t has brightness 6t
    assert (clips[0, 5]["clip"] == clips[9, 5]["clip"]).all()
    with pytest.raises(IndexError):
        clips[18]
    assert len(list(clips)) == 18


def test_files_lost_in_mid_run(tree, caplog):
    videos = load("ucf101", tree)
    clips = Clips(videos, 2, 2, 1, 16)
    for i in 1, 2:
        videos.path(i).unlink() if i == 1 else videos.path(i).write_bytes(b"junk")
    item = clips[0, 1]
    assert (item["broken"], item["index"], item["label"]) == (1, 1, videos.videos[3].label) and (item["clip"] == clips[0, 3]["clip"]).all()
    assert "no such file" in caplog.text
    for i in range(6):
        videos.path(i).write_bytes(b"junk")
    with pytest.raises(DatasetError, match="cannot be read any more"):
        clips[0, 0]
