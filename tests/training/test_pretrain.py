"""The job: from a folder of videos to a trained network, from names and from objects."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_job import tree

from memdpc.base.config import PRETRAIN_PRESETS
from memdpc.base.errors import ConfigError
from memdpc.data.video import write_video
from memdpc.data.videos import load_dataset
from memdpc.training.pretrain import model_from, pretrain
from memdpc.training.run import read_metrics

pytestmark = pytest.mark.trains

SMALL = replace(
    PRETRAIN_PRESETS["demo"],
    dataset="folder",
    encoder="tiny",
    img_size=32,
    num_blocks=3,
    block_len=3,
    pred_steps=1,
    mem_size=8,
    batch_size=4,
    epochs=2,
    max_steps=7,
    log_every=2,
    checkpoint_every=4,
    val_fraction=0.2,
    num_workers=0,
    device="cpu",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of twenty small videos, and an index of its own."""
    folder = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0)
    for number in range(20):
        write_video(
            folder / f"{number:02d}.mp4",
            noise.integers(0, 255, (10, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2),
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMDPC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield str(folder)


def test_pretrain_finishes_and_a_finished_run_is_left_alone(videos, tmp_path):
    config = replace(SMALL, root=videos, out=str(tmp_path / "run"))
    result = pretrain(config)
    assert (
        result["steps"] == 7
        and result["videos"] == 16
        and result["device"] == "cpu"
        and result["seconds"] > 0
    )
    assert {"version", "seed", "loss", "top1", "best_loss", "best_step"} <= result.keys()
    before = tree(tmp_path)
    again = pretrain(replace(config, resume=True, num_workers=1))
    assert (
        again == json.loads((tmp_path / "run/metrics.json").read_text())
        and tree(tmp_path) == before
    )
    assert {row["name"] for row in read_metrics(tmp_path / "run")} == {"loss", "top1", "top5", "lr"}


def test_pretrain_in_bf16_and_one_direction(videos, tmp_path):
    config = replace(
        SMALL,
        root=videos,
        out=str(tmp_path / "run"),
        precision="bf16",
        bidirectional=False,
        max_steps=2,
        val_fraction=0,
    )
    # oneDNN's bf16 3-D convolutions give NaN gradients now and then on some CPUs.
    with torch.backends.mkldnn.flags(enabled=False):
        result = pretrain(config)
    assert (
        result["precision"] == "bf16" and np.isfinite(result["loss"]) and "best_loss" not in result
    )


def test_pretrain_without_a_memory_or_with_one_video_left(videos, tmp_path):
    assert (
        pretrain(replace(SMALL, root=videos, out=str(tmp_path / "dpc"), mem_size=0, max_steps=1))[
            "steps"
        ]
        == 1
    )
    with pytest.raises(
        ConfigError, match="16 training videos do not fill a batch of 17: lower batch_size"
    ):
        pretrain(replace(SMALL, root=videos, out=str(tmp_path / "big"), batch_size=17))


def rows_of(out):
    return (out / "metrics.csv").read_bytes()


def test_objects_instead_of_names(videos, tmp_path):
    """The same model and the same videos, handed in, give the same run."""
    config = replace(SMALL, root=videos, out=str(tmp_path / "names"), max_steps=3)
    pretrain(config)
    listed = load_dataset("folder", videos, 1, "train", num_workers=0)
    objects = replace(config, out=str(tmp_path / "objects"), root="")
    pretrain(objects, model=model_from(config), videos=listed)
    assert rows_of(tmp_path / "names") == rows_of(tmp_path / "objects")


def halved(predicted, target):
    """A loss of one's own, with a measure of its own name."""
    return {"loss": (predicted - target).square().mean() / 2, "size": predicted.abs().mean()}


def test_a_loss_of_ones_own(videos, tmp_path):
    """What it names is logged; two directions are averaged."""
    config = replace(SMALL, root=videos, out=str(tmp_path / "run"), max_steps=2)
    results = pretrain(config, loss=halved)
    assert {row["name"] for row in read_metrics(tmp_path / "run")} == {"loss", "size", "lr"}
    assert results["size"] > 0 and "top1" not in results


def test_a_model_and_a_loss_are_one_too_many(videos, tmp_path):
    config = replace(SMALL, root=videos, out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="a model has its loss already"):
        pretrain(config, model=model_from(config), loss=halved)
    assert not (tmp_path / "run").exists()


def test_plugins_are_loaded_first(videos, tmp_path):
    config = replace(SMALL, root=videos, out=str(tmp_path / "run"), plugin=("nowhere_to_be_found",))
    with pytest.raises(ConfigError, match="nowhere_to_be_found"):
        pretrain(config)
    assert not (tmp_path / "run").exists()
