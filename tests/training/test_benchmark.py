"""The benchmark of the data path: its mechanics on a made file, and the job."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from memdpc.base.config import BenchmarkConfig
from memdpc.base.errors import ConfigError, VideoError
from memdpc.data.video import probe
from memdpc.training.benchmark import (
    benchmark,
    clips_of,
    make_video,
    natural_frames,
    one_thread,
    time_functions,
    time_readers,
)

REAL = Path(__file__).parents[3] / "shared/data/clips/v_SoccerJuggling_g23_c01.avi"
real = pytest.mark.skipif(not REAL.exists(), reason="the real clip is not here")
SMALL = dict(encoder="tiny", num_blocks=4, block_len=2, clips=5, device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The video that a benchmark makes for itself."""
    return make_video(tmp_path_factory.mktemp("video") / "made.avi")


def test_the_made_video_is_like_ucf101s(made):
    """Size, codec, keyframes, rate and bytes are those of a UCF101 video, the same in each run."""
    info = probe(made)
    assert (info.frames, info.width, info.height) == (240, 320, 240)
    assert (info.fps, info.codec, len(info.seek_points)) == (25, "mpeg4", 19)
    assert 300_000 < made.stat().st_size < 600_000
    assert (natural_frames(3) == natural_frames(3)).all()


def test_time_by_function(made):
    """Decoding takes most; the clips are those that were not watched; the parts add up."""
    clips = clips_of(BenchmarkConfig(img_size=64), made)
    before = clips[2, 0]
    spent = time_functions(clips, 3, longest=4)
    assert all(np.array_equal(before[name], value) for name, value in clips[2, 0].items())
    assert len(spent) == 5 and list(spent)[-1] == "other"
    assert all(milliseconds > 0 for milliseconds in spent.values())
    assert "decode" in max(spent, key=spent.get)


class Waiting:
    """Stands for clips that take a known time to read."""

    def __getitem__(self, key):
        time.sleep(0.004)
        return {"x": 0}


def test_readers_that_only_wait():
    """4 ms a clip: at most 250 clips a second from each of two readers."""
    assert 0 < time_readers(Waiting(), total=20, batch_size=4, num_workers=2) < 2 * 250 * 1.5


def test_one_thread():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A small benchmark, and its folder."""
    out = tmp_path_factory.mktemp("run") / "out"
    config = BenchmarkConfig(out=str(out), video=str(made), img_size=64, num_workers=2, **SMALL)
    return benchmark(config), out


def test_the_job(run):
    """Every result in the run's folder, with what a reader needs to compare it."""
    found, out = run
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["per_core"] > 0 and metrics["step"]["clips"] == 2
    assert list(metrics["readers"]) == ["1", "2"] and min(metrics["readers"].values()) > 0
    assert metrics["readers_needed"] == found.readers_needed >= 1
    assert metrics["facts"]["torch"] == torch.__version__ and metrics["facts"]["processor"]
    assert json.loads((out / "config.json").read_text())["clips"] == 5
    assert sorted(path.name for path in out.glob("[!.]*")) == ["config.json", "metrics.json"]


def test_its_text_is_the_table(run):
    found, _ = run
    text = str(found)
    for row in found.rows():
        assert row["what"] in text
    assert "readers: 2" in text and "training step on cpu" in text and "made.avi" in text


def test_it_may_be_run_again(run, made):
    """Results of a benchmark are replaced."""
    _, out = run
    config = BenchmarkConfig(out=str(out), video=str(made), img_size=32, num_workers=0, **SMALL)
    assert benchmark(config).readers == {}
    assert json.loads((out / "metrics.json").read_text())["readers"] == {}


def test_without_workers_a_core_stands_for_a_reader(made, tmp_path):
    config = BenchmarkConfig(
        out=str(tmp_path), video=str(made), img_size=32, num_workers=0, **SMALL
    )
    found = benchmark(config)
    assert found.per_reader == found.per_core and found.readers_needed >= 1


@pytest.mark.parametrize(
    "config, error, said",
    [
        (BenchmarkConfig(), ConfigError, "no out: name the folder"),
        (BenchmarkConfig(out="run", video="nowhere.avi"), VideoError, "nowhere.avi: no such file"),
    ],
)
def test_mistakes_are_one_line(config, error, said, tmp_path, monkeypatch):
    """And nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        benchmark(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_results_of_another_job_are_left_alone(name, tmp_path):
    (tmp_path / name).write_text('{"steps": 3}')
    with pytest.raises(ConfigError, match="holds results of another job; choose another out"):
        benchmark(BenchmarkConfig(out=str(tmp_path)))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        (name, '{"steps": 3}')
    ]


@pytest.mark.slow
@real
def test_most_of_a_real_clips_time_is_decoding_and_scaling():
    spent = time_functions(clips_of(BenchmarkConfig(), REAL), 50, longest=20)
    work = [value for name, value in spent.items() if "decode" in name or "Scaler" in name]
    assert sum(work) > 0.5 * sum(spent.values()), spent
