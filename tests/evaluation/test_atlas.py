"""The atlas: every kind of checkpoint, what a pass keeps, and one line for every mistake."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_measure import SIZES, make, released_file
from test_runs import NOTEBOOK, papermill

from memdpc.base.config import AtlasConfig, PretrainConfig
from memdpc.base.errors import CheckpointError, ConfigError
from memdpc.evaluation.atlas import (
    NearestBlocks,
    SlotUsage,
    add_by_class,
    atlas,
    chance_agreement,
    map_addresses,
    mutual_information,
    purity,
    shuffled_labels,
    stage_addresses,
    survey_memory,
)
from memdpc.evaluation.atlas_data import some_clips, stage_models, training_clips
from memdpc.evaluation.checkpoints import load_model, sized_model
from memdpc.method.model import MemDPC
from memdpc.training.pretrain import pretrain
from memdpc.training.run import Run

pytestmark = pytest.mark.trains

ROUNDING = 1e-3  # of slots: equal measures may differ by it
FIGURES = ["classes.png", "futures.png", "slots.png", "stages.png", "surprise.png", "usage.png"]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMDPC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "set")


def run_config(root, out, **more):
    sizes = SIZES | {"frame_stride": 1, "root": str(root), "out": str(out)}
    return PretrainConfig(
        **sizes
        | dict(
            batch_size=4,
            epochs=3,
            val_fraction=0.0,
            checkpoint_every=1,
            num_workers=0,
            device="cpu",
        )
        | more
    )


@pytest.fixture(scope="module")
def run(whole, tmp_path_factory):
    "A run of six steps that kept all of its checkpoints."
    out = tmp_path_factory.mktemp("runs") / "run"
    pretrain(run_config(whole, out, keep_checkpoints=True))
    return out


def job(where, tmp_path, checkpoint, **more):
    return AtlasConfig(
        **dict(
            checkpoint=str(checkpoint),
            root=str(where),
            out=str(tmp_path / "out"),
            num_workers=0,
            device="cpu",
        )
        | more
    )


def figures(tmp_path):
    return sorted(path.name for path in (tmp_path / "out" / "figures").iterdir())


def save(folder, **more):
    torch.manual_seed(0)
    MemDPC(**SIZES | more).save_pretrained(folder)
    return folder


# ---- runs that keep their checkpoints


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_every_checkpoint_is_kept_and_a_run_may_change_its_mind(whole, run, tmp_path):
    assert checkpoints(run) == [f"step-{step:08d}" for step in range(1, 7)]
    config = run_config(whole, tmp_path / "run", max_steps=4)
    pretrain(config)
    assert checkpoints(tmp_path / "run") == [
        "step-00000004"
    ]  # the last is the best: there is no validation
    kept = Run(
        run, run_config(whole, run, keep_checkpoints=True, resume=True)
    )  # finished: nothing is cleared away
    assert kept.finished and len(checkpoints(run)) == 6
    again = shutil.copytree(run, tmp_path / "again")
    (again / "metrics.json").unlink()
    (again / "checkpoints" / ".0123456789abcdef.part").mkdir()
    pretrain(
        run_config(whole, again, keep_checkpoints=True, resume=True)
    )  # killed just before its end
    assert checkpoints(again) == checkpoints(run)
    (again / "metrics.json").unlink()
    pretrain(run_config(whole, again, resume=True))  # what is kept is no part of what a run is
    assert checkpoints(again) == ["step-00000006"]


def test_keeping_changes_nothing_else(whole, run, tmp_path):
    pretrain(run_config(whole, tmp_path / "run"))
    name = "checkpoints/step-00000006/model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_kept_checkpoints_survive_a_stop(whole, run, tmp_path):
    "A run that goes on from its third checkpoint ends with the same six."
    shutil.copytree(run, tmp_path / "run")
    for step in (4, 5, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "run" / "metrics.json").unlink()
    pretrain(run_config(whole, tmp_path / "run", keep_checkpoints=True, resume=True))
    for step in range(1, 7):
        name = f"checkpoints/step-{step:08d}/model.safetensors"
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


# ---- the job


def test_a_run_end_to_end(whole, run, tmp_path):
    result = atlas(job(whole, tmp_path, run, stages=3))
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())["atlas"]
    assert result["atlas"] == facts and figures(tmp_path) == FIGURES and result["chance"] == 0.5
    assert [name for name in facts if name.startswith("purity")] == [
        "purity, untrained",
        "purity, step 3",
        "purity, step 6",
        "purity, chance",
    ]
    assert (
        facts["slots"] == 8
        and 1 <= facts["leading slots"] <= 8 - facts["dead slots"]
        and 1 <= facts["slots in an address"] <= facts["slots in use"] + ROUNDING
        and facts["slots in use"] <= 8 + ROUNDING
    )
    assert (
        facts["purity, chance"]
        == facts["found alike, chance"]
        == chance_agreement(np.repeat([0, 1], 4))
    )
    assert facts["surprise, nats, chance"] == pytest.approx(
        np.log(8 * 1 * 1 * 1)
    )  # 8 clips, one block to predict, one cell
    for picture in (tmp_path / "out" / "figures").iterdir():
        assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "kind",
    [
        "one direction",
        "one stage",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in (
                "random",
                "folder of weights",
                "unlabelled",
                "released",
                "an early checkpoint",
            )
        ),
    ],
)
def test_every_kind_of_checkpoint_and_dataset(kind, whole, run, tmp_path):
    more = dict(frame_stride=1)
    if kind == "one direction":
        checkpoint = save(tmp_path / "net", bidirectional=False)
    if kind == "folder of weights":
        checkpoint = save(tmp_path / "net")
    if kind == "random":
        checkpoint, more = "random", more | dict(encoder="tiny", img_size=32, num_blocks=2)
    if kind == "unlabelled":
        checkpoint, more = run, more | dict(dataset="folder", root=str(whole / "videos" / "Left"))
    if kind == "one stage":
        checkpoint, more = (
            run,
            more | dict(stages=1, classes=1, slots=(7, 0), example=7, clips_per_video=2),
        )
    if kind == "an early checkpoint":
        checkpoint = run / "checkpoints" / "step-00000002"
    if kind == "released":
        checkpoint, more = tmp_path / "net.pth.tar", more | dict(img_size=64, num_blocks=3)
        released_file(checkpoint)
    facts = atlas(job(whole, tmp_path, checkpoint, **more))["atlas"]
    assert figures(tmp_path) == FIGURES and all(np.isfinite(value) for value in facts.values())
    stages = {
        "one direction": ["fresh weights", "checkpoint"],
        "random": ["untrained"],
        "folder of weights": ["fresh weights", "checkpoint"],
        "unlabelled": ["untrained", "step 2", "step 4", "step 6"],
        "released": ["fresh weights", "checkpoint"],
        "one stage": ["untrained", "step 6"],
        "an early checkpoint": ["untrained", "step 1", "step 2"],
    }[kind]
    assert [name[8:] for name in facts if name.startswith("purity")] == [*stages, "chance"]
    if kind == "unlabelled":
        assert facts["class and slot, nats"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_the_same_run_twice_gives_the_same(whole, run, tmp_path):
    first, second = (
        atlas(job(whole, tmp_path, run, out=str(tmp_path / name)))["atlas"] for name in "ab"
    )
    assert first == second
    for name in FIGURES:
        assert (tmp_path / "a" / "figures" / name).read_bytes() == (
            tmp_path / "b" / "figures" / name
        ).read_bytes()


def test_batches_do_not_matter(whole, run, tmp_path):
    found = []
    for size in (1, 3, 16):
        config = job(whole, tmp_path, run, batch_size=size)
        model, sizes = sized_model(config)
        shown = training_clips(config, model.eval(), **sizes)
        usage, sums, nearest, _ = survey_memory(model, shown, config)
        chosen = some_clips(shown.labels)
        address, read = stage_addresses({"now": model}, shown.clips, chosen, config)
        assert read.tolist() == list(range(8))
        found.append((usage.mean, sums, nearest.scores, address["now"]))
    for others in found[1:]:
        for value, wanted in zip(others, found[0]):
            torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4)


def test_a_video_that_went_bad_is_left_out(whole, run, tmp_path):
    root = shutil.copytree(whole, tmp_path / "set")
    config = job(root, tmp_path, run)
    model, sizes = sized_model(config)
    shown = training_clips(config, model.eval(), **sizes)
    usage = survey_memory(model, shown, config).usage
    file = root / shown.clips.videos.videos[3].path
    file.write_bytes(bytes(file.stat().st_size))
    less, sums, nearest, _ = survey_memory(model, shown, config)
    assert less.count == usage.count * 7 / 8 and sums[0].sum() == pytest.approx(7)
    assert 3 not in nearest.clips
    _, read = stage_addresses({"now": model}, shown.clips, some_clips(shown.labels), config)
    assert 3 not in read


def test_stages_lie_evenly_and_the_first_is_the_start(whole, run):
    models = stage_models(run, 4, load_model(run))
    assert list(models) == ["untrained", "step 2", "step 4", "step 6"]
    torch.manual_seed(0)
    fresh = MemDPC(**models["untrained"].sizes)
    assert all(
        map(torch.equal, fresh.state_dict().values(), models["untrained"].state_dict().values())
    )
    assert list(stage_models(run, 100, load_model(run))) == [
        "untrained",
        *(f"step {step}" for step in range(1, 7)),
    ]


# ---- mistakes


def test_what_does_not_serve_is_one_line(whole, run, tmp_path):
    with pytest.raises(CheckpointError, match="without a memory"):
        atlas(job(whole, tmp_path, save(tmp_path / "dpc", mem_size=0)))
    with pytest.raises(ConfigError, match="slot 8: this memory has 8 slots"):
        atlas(job(whole, tmp_path, run, slots=(2, 8)))
    with pytest.raises(ConfigError, match="example 8: there are 8 training videos"):
        atlas(job(whole, tmp_path, run, example=8))
    with pytest.raises(ConfigError, match="no out"):
        atlas(job(whole, tmp_path, run, out=""))
    with pytest.raises(ConfigError, match="classes must lie in 1..10"):
        job(whole, tmp_path, run, classes=11)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_command(whole, run, tmp_path):
    words = [
        "--checkpoint",
        run,
        "--root",
        whole,
        "--num_workers",
        0,
        "--device",
        "cpu",
        "--slots",
        1,
        2,
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "memdpc", "atlas", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "slots in use" in done.stdout and figures(tmp_path) == FIGURES
    words[1] = save(tmp_path / "dpc", mem_size=0)
    done = subprocess.run(
        [sys.executable, "-m", "memdpc", "atlas", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        done.returncode == 2
        and done.stderr.strip().splitlines()[-1].startswith("memdpc: ")
        and "Traceback" not in done.stderr
    )


# ---- the run notebook


@pytest.mark.slow
def test_notebook_without_parameters(tmp_path):
    done, target = papermill(tmp_path, notebook=NOTEBOOK.with_name("atlas.ipynb"))
    assert done.returncode == 0, done.stderr
    assert target.read_text().count("image/png") >= 6 and [
        path.name for path in tmp_path.iterdir()
    ] == [target.name]


@pytest.mark.slow
def test_notebook_with_a_run(whole, run, tmp_path):
    words = [
        "-p",
        "checkpoint",
        run,
        "-p",
        "root",
        whole,
        "-p",
        "out",
        tmp_path / "out",
        "-y",
        "slots: [3, 5]",
        "-p",
        "num_workers",
        0,
        "-p",
        "device",
        "cpu",
    ]
    done, _ = papermill(tmp_path, *words, notebook=NOTEBOOK.with_name("atlas.ipynb"))
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path) == FIGURES and "atlas" in json.loads(
        (tmp_path / "out" / "metrics.json").read_text()
    )


@pytest.mark.slow
def test_notebook_refuses_what_is_no_parameter(tmp_path):
    done, _ = papermill(tmp_path, "-p", "slot", 3, notebook=NOTEBOOK.with_name("atlas.ipynb"))
    assert done.returncode != 0
    assert "ConfigError: 'slot' is not a parameter of this job" in done.stderr


# ---- sums, at sizes that lessons do not have


def test_sums_are_those_of_all_addresses_at_once():
    address = torch.randn(60, 3, 40, 2, 2, generator=torch.manual_seed(0)).mul(3).softmax(2)
    labels = np.arange(60) % 5
    usage, named, sums = (
        SlotUsage(40),
        shuffled_labels(labels, 4),
        torch.zeros(5, 5, 40, dtype=torch.float64),
    )
    for first in range(0, 60, 7):
        part = slice(first, first + 7)
        usage.add(address[part])
        add_by_class(sums, address[part].mean((1, 3, 4)), named[:, part])
    rows = address.movedim(2, -1).flatten(0, -2)
    assert usage.summary()["slots in an address"] == pytest.approx(
        torch.special.entr(rows).sum(1).mean().exp().item(), rel=1e-4
    )
    assert usage.led.tolist() == torch.bincount(rows.argmax(1), minlength=40).tolist()
    per_clip = address.mean((1, 3, 4)).double()
    for names, found in zip(named, sums):
        for label in range(5):
            torch.testing.assert_close(
                found[label], per_clip[names == label].sum(0), atol=1e-5, rtol=1e-4
            )
    joint = sums[0] / 60
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    assert mutual_information(sums)[0].item() == pytest.approx(
        (joint * (joint / independent).log()).sum().item(), abs=1e-6
    )


def test_nearest_is_the_best_of_all_whatever_the_batches():
    generator = torch.manual_seed(0)
    features, slots = (
        torch.randn(50, 2, 6, 3, 2, generator=generator),
        torch.randn(9, 6, generator=generator),
    )
    nearest = NearestBlocks(slots, kept=4)
    for first in range(0, 50, 3):
        nearest.add(features[first : first + 3], torch.arange(first, min(first + 3, 50)))
    cosine = torch.nn.functional.cosine_similarity(
        slots[None, :, None], features.movedim(2, -1).flatten(1, 3)[:, None], dim=-1
    )  # [50, 9, 12]
    scores, clips = cosine.amax(2).topk(4, 0)
    torch.testing.assert_close(nearest.scores, scores.T)
    assert torch.equal(nearest.clips, clips.T) and all(
        len(set(row)) == 4 for row in nearest.clips.tolist()
    )
    assert torch.equal(nearest.cells, cosine.argmax(2).gather(0, clips).T)


def test_memory_of_a_pass_does_not_grow_with_clips():
    nearest, usage = NearestBlocks(torch.randn(64, 8)), SlotUsage(64)
    for first in range(0, 640, 64):
        nearest.add(torch.randn(64, 2, 8, 1, 1), torch.arange(first, first + 64))
        usage.add(torch.rand(64, 1, 64, 1, 1).softmax(2))
    assert (
        nearest.scores.shape == nearest.clips.shape == nearest.cells.shape == (64, 3)
        and usage.total.shape == (64,)
        and usage.count == 640
    )


def test_maps_and_judges_of_very_few():
    address = torch.eye(3)
    assert map_addresses(address).shape == (3, 2) and purity(
        address, np.array([0, 0, 1])
    ) == pytest.approx(1 / 3)
    assert chance_agreement(np.array([4])) == 0
    twelve = torch.rand(12, 3, generator=torch.manual_seed(0)).softmax(1)
    assert np.array_equal(map_addresses(twelve), map_addresses(twelve))
    picked = some_clips(np.repeat(np.arange(20), 30), most_classes=10, most_clips=7)
    assert len(picked) == 70 and len(set(picked)) == 70 and (np.diff(picked) > 0).all()
