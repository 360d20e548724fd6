"""What a run was begun with, and what changed since: videos, settings, length."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from memdpc.base.config import PAPER, ClassifyConfig
from memdpc.data.video import VideoInfo
from memdpc.data.videos import Packed, Video, VideoList
from memdpc.training.changes import changes_since, fingerprint, video_changes


def listed(folder, **videos):
    """A list of files: `name=(content, label)`."""
    folder.mkdir(exist_ok=True)
    found = []
    for name, (content, label) in videos.items():
        (folder / name).write_bytes(content)
        found.append(Video(name, label, "", VideoInfo(8, 4, 4, 25.0, "h264")))
    return VideoList("folder", folder, (), Packed(found))


def test_changed_videos_are_counted_and_named(tmp_path):
    seen = listed(tmp_path / "a", a=(b"1", 0), b=(b"22", 0), c=(b"3", 1), d=(b"4", 1))
    file = tmp_path / "videos.jsonl"
    file.write_bytes(fingerprint({"training": seen, "held-out": seen}))
    now = listed(tmp_path / "b", c=(b"33", 1), b=(b"22", 1), e=(b"5", 0))
    assert video_changes(file, fingerprint({"training": now, "held-out": seen})) == (
        "2 training videos gone (a, ...), 1 added (e), 1 replaced (c), 1 labelled otherwise (b)"
    )
    fewer = listed(tmp_path / "c", a=(b"1", 0), b=(b"22", 0), c=(b"3", 1))
    assert video_changes(file, fingerprint({"training": seen, "held-out": fewer})) == (
        "1 held-out video gone (d)"
    )
    turned = listed(tmp_path / "d", b=(b"22", 0), a=(b"1", 0), c=(b"3", 1), d=(b"4", 1))
    changed = video_changes(file, fingerprint({"training": turned, "held-out": seen}))
    assert changed == "the same videos in another order"


def test_a_dataset_that_was_moved_or_copied_is_the_same(tmp_path):
    """Neither place nor time counts, and names need not be text."""
    seen = listed(tmp_path / "a", **{"a\udcff\n": (b"1", 0), "b": (b"2", 0)})
    before = fingerprint({"training": seen})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprint({"training": replace(seen, root=tmp_path / "b")}) == before


@pytest.fixture
def saved(tmp_path):
    """The config.json of a run of five epochs."""

    def save(**settings):
        config = replace(PAPER, epochs=5, **settings)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(asdict(config)))
        return config, file

    return save


def test_other_spellings_of_a_place_are_the_same_place(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    config, file = saved(root=f"{tmp_path}/d", init=f"{tmp_path}/c")
    for root, init in (("d", "c/"), ("./d/", "~/c"), ("~/d", "../" + tmp_path.name + "/c")):
        assert changes_since(replace(config, root=root, init=init), file) == ([], "", "")
    elsewhere = changes_since(replace(config, root="e", init=""), file)
    assert elsewhere.moved == f"root: {tmp_path}/d -> e"
    assert elsewhere.refused == [f"init: {tmp_path}/c -> "]


def test_a_checkpoint_may_be_spelled_otherwise_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ClassifyConfig(checkpoint="runs/a/")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(asdict(config)))
    same = changes_since(replace(config, checkpoint=f"{tmp_path}/runs/a"), file)
    assert same == ([], "", "")
    other = changes_since(replace(config, checkpoint="runs/b"), file)
    assert other.refused == ["checkpoint: runs/a/ -> runs/b"]


@pytest.mark.parametrize(
    "schedule, then",
    [
        (dict(cosine=True), "its cosine is stretched over the new length"),
        (dict(milestones=(3,)), "its milestones stay where they are"),
        ({}, "its schedule is that of a run of this length from the start"),
    ],
)
def test_a_run_is_made_longer(saved, schedule, then):
    config, file = saved(**schedule)
    assert changes_since(config, file).longer == ""
    found = changes_since(replace(config, epochs=9), file)
    assert not found.refused and found.longer.startswith(f"made longer (epochs: 5 -> 9): {then}")


def test_a_run_is_not_made_shorter(saved):
    config, file = saved(max_steps=10)
    assert not changes_since(replace(config, max_steps=None), file).refused
    for change in (dict(epochs=4), dict(max_steps=9), dict(epochs=9, max_steps=9)):
        found = changes_since(replace(config, **change), file)
        assert "a run is made longer, not shorter" in found.refused[-1] and not found.longer
    config, file = saved()
    assert changes_since(replace(config, max_steps=3), file).refused


def test_a_damaged_length_is_a_difference(saved):
    config, file = saved()
    file.write_text(json.dumps(json.loads(Path(file).read_text()) | {"epochs": "x" * 1000}))
    (line,) = changes_since(config, file).refused
    assert line.startswith("epochs: xxx") and len(line) < 200
