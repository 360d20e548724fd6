"""Action recognition on a tiny dataset of known answers: modes, kills, few labels, splits,
released files, and what does not serve."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_measure import make, released_file, save
from test_released import to_released
from test_runs import papermill

from memdpc.base.config import CLASSIFY_PRESETS, ClassifyConfig, config_from, parse
from memdpc.base.errors import CheckpointError, ConfigError, DatasetError, MemdpcError
from memdpc.data.clips import Clips, Every
from memdpc.data.videos import hold_out, load_dataset
from memdpc.evaluation import classify as module
from memdpc.evaluation.checkpoints import load_model, sized_model
from memdpc.evaluation.checks import refuse_unused_fields, warn_of_training
from memdpc.evaluation.classify import (
    ActionClassifier,
    at_fraction,
    classify,
    few_labels,
    labelled_and_test,
    predict,
    some_labels,
)
from memdpc.method.model import Classifier, MemDPC
from memdpc.method.released import load_released_classifier
from memdpc.training.processes import make_accelerator

pytestmark = pytest.mark.trains

SMALL = dict(
    checkpoint="random",
    encoder="tiny",
    img_size=32,
    num_blocks=2,
    frame_stride=1,
    batch_size=4,
    lr=1e-2,
    weight_decay=0,
    dropout=0,
    epochs=8,
    cosine=True,
    min_area=1,
    flip=0,
    jitter=0,
    crops=1,
    val_fraction=0.25,
    num_workers=0,
    device="cpu",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two classes, told apart by the brightness of the ground; three splits, all alike."""
    root = make(tmp_path_factory.mktemp("data") / "set", train=8, test=2)
    for part in ("train", "test"):
        for split in (2, 3):
            shutil.copy(
                root / "splits_classification" / f"{part}list01.txt",
                root / "splits_classification" / f"{part}list0{split}.txt",
            )
    return root


def job(root, tmp_path, **more):
    return ClassifyConfig(
        **SMALL | dict(mode="scratch", root=str(root), out=str(tmp_path / "run")) | more
    )


def weights(out):
    last = max((Path(out) / "checkpoints").iterdir())
    return ActionClassifier.from_pretrained(str(last)).state_dict()


def rows_of(file):
    with open(file, newline="") as table:
        return list(csv.DictReader(table))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_from_scratch_finds_what_pixels_tell(whole, tmp_path):
    result = classify(job(whole, tmp_path))
    assert (
        result["accuracy"] == 1
        and result["top5"] == 1
        and result["chance"] == result["majority"] == 0.5
    )
    assert (
        result["mode"],
        result["videos"],
        result["held_out"],
        result["test_videos"],
        result["steps"],
    ) == ("scratch", 16, 4, 4, 24)
    assert result["classes"] == [
        {"class": name, "videos": 2, "accuracy": 1.0} for name in ("Left", "Right")
    ]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == result
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    assert len(rows) == 4 and all(
        row["class"] == row["predicted"] and row["class"] in row["video"] for row in rows
    )
    assert (
        np.allclose(np.load(tmp_path / "run" / "probabilities.npy").sum(1), 1)
        and (tmp_path / "run" / "figures" / "confusion.png").stat().st_size > 1000
    )
    assert classify(job(whole, tmp_path, resume=True)) == result  # a finished run stays as it is


def test_frozen_to_the_bit_and_finetuned_from_the_checkpoint(whole, tmp_path):
    net = load_model(save(tmp_path / "net", 3))
    own = {
        name: value for name, value in net.state_dict().items() if not name.startswith("predictor")
    }
    for mode in ("linear", "finetune", "scratch"):
        classify(
            job(
                whole,
                tmp_path,
                checkpoint=str(tmp_path / "net"),
                mode=mode,
                out=str(tmp_path / mode),
                max_steps=2,
                weight_decay=0.1,
            )
        )
    linear = weights(tmp_path / "linear")
    assert same({name: linear[name] for name in own}, own)
    distance = {
        mode: sum(
            float((weights(tmp_path / mode)[name] - own[name]).abs().sum())
            for name, _ in net.encoder.named_parameters(prefix="encoder")
        )
        for mode in ("linear", "finetune", "scratch")
    }
    assert distance["linear"] == 0 < distance["finetune"] < 0.5 * distance["scratch"]


@pytest.mark.parametrize("where", ["training", "testing"])
def test_an_interrupted_run_goes_on_to_the_same_end(whole, tmp_path, monkeypatch, where):
    config = job(whole, tmp_path, epochs=2, dropout=0.5, checkpoint_every=2)
    expected = classify(replace(config, out=str(tmp_path / "other")))
    honest, calls = (
        (module.classify_step, []) if where == "training" else (module.test_classifier, [])
    )

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5 or where == "testing":
            raise KeyboardInterrupt
        return honest(*args)

    monkeypatch.setattr(
        module, "classify_step" if where == "training" else "test_classifier", interrupted
    )
    with pytest.raises(KeyboardInterrupt):
        classify(config)
    monkeypatch.undo()
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    result = classify(replace(config, resume=True))
    assert {name: value for name, value in result.items() if name != "seconds"} == {
        name: value for name, value in expected.items() if name != "seconds"
    }
    assert same(weights(config.out), weights(tmp_path / "other"))


def test_validation_groups_never_meet_training_groups(whole, tmp_path):
    for seed in range(5):
        config = job(whole, tmp_path, seed=seed, label_fraction=0.75, draw=seed)
        model, sizes = sized_model(config)
        labelled, test, _ = labelled_and_test(config, model, sizes)
        kept, held_out = hold_out(labelled, config.val_fraction, config.seed)
        groups = [{video.group for video in part.videos} for part in (kept, held_out, test)]
        assert all(groups) and not (
            groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2]
        )
        assert len(labelled) == 12 and {video.label for video in labelled.videos} == {0, 1}


def test_labels_are_drawn_class_by_class():
    labels = np.random.default_rng(0).integers(7, size=300)
    for draw in range(3):
        chosen = [some_labels(labels, fraction, draw) for fraction in (0.001, 0.1, 0.3, 1)]
        assert (
            all((few <= more).all() for few, more in zip(chosen, chosen[1:])) and chosen[-1].all()
        )
        assert np.bincount(labels[chosen[0]]).tolist() == [1] * 7
        assert np.bincount(labels[chosen[2]]).tolist() == [
            round(0.3 * count) for count in np.bincount(labels)
        ]


def test_few_labels_and_all_splits(whole, tmp_path):
    config = job(whole, tmp_path, max_steps=2, val_fraction=0)
    rows = few_labels(
        {"scratch": config, "probe": replace(config, mode="probe", out=str(tmp_path / "probe"))},
        (0.5, 1),
        2,
    )
    assert [(row["name"], row["videos"], row["draw"]) for row in rows] == [
        (name, videos, draw)
        for name in ("scratch", "probe")
        for videos in (8, 16)
        for draw in (0, 1)
    ]
    assert all(0 <= row["accuracy"] <= 1 for row in rows) and sorted(
        path.name for path in (tmp_path / "run").iterdir()
    ) == ["0.5-0", "0.5-1", "1-0", "1-1"]
    assert [row["steps"] for row in rows] == [2] * 4 + [None] * 4 and [
        path.name for path in (tmp_path / "probe").iterdir()
    ] == ["features"]
    mean = classify(replace(config, all_splits=True, out=str(tmp_path / "splits")))
    assert len(mean["splits"]) == 3 and mean["accuracy"] == pytest.approx(
        np.mean([split["accuracy"] for split in mean["splits"]])
    )
    assert json.loads((tmp_path / "splits" / "metrics.json").read_text()) == mean
    with pytest.raises(ConfigError, match="one split"):
        classify(replace(config, all_splits=True, dataset="kinetics400", out=str(tmp_path / "k")))


def test_windows_and_views_are_counted_once(whole):
    """A function that says which pixels it saw: ten views of every window, averaged; a video
    that went bad is left out."""
    videos = load_dataset("ucf101", whole, subset="test", progress=False)
    clips = Clips(
        videos, num_blocks=2, block_len=3, frame_stride=1, img_size=28, starts=Every()
    )  # 6 of 20 frames, every 3: five windows
    seen = []

    def function(x):
        seen.append(len(x))
        return torch.ones(len(x), 3) * torch.tensor([1.0, 2.0, 3.0])

    means, whole_ones = predict(make_accelerator("cpu"), function, clips, 3, crops=10, batch_size=7)
    assert (
        sum(seen) == 10 * len(clips) == 10 * 5 * 4
        and np.allclose(means, [[1, 2, 3]] * 4)
        and whole_ones.all()
    )


def test_a_test_video_that_went_bad_is_left_out(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "set")
    config = job(root, tmp_path, max_steps=1, val_fraction=0)
    file = load_dataset("ucf101", root, subset="test", progress=False).path(1)
    status = os.stat(file)
    file.write_bytes(bytes(status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = classify(config)
    assert result["test_videos"] == 3 and [row["videos"] for row in result["classes"]] == [1, 2]


def test_a_released_file_is_finetuned_with_no_other_step(whole, tmp_path):
    released_file(tmp_path / "k400.pth.tar")
    config = job(
        whole,
        tmp_path,
        checkpoint=str(tmp_path / "k400.pth.tar"),
        mode="finetune",
        num_blocks=4,
        batch_size=2,
        max_steps=1,
        lr=0,
    )
    result = classify(config)
    own = load_model(tmp_path / "k400.pth.tar", img_size=32, num_blocks=4).state_dict()
    found = weights(config.out)
    assert result["steps"] == 1 and all(
        torch.equal(found[name], own[name])
        for name in ("encoder.layer4.1.conv2.weight", "forward_gru.out_gate.weight")
    )


# ---- released classifiers


def classifier_dict(num_classes=5, **sizes):
    """A classifier whose every entry is random, and its released state dict."""
    torch.manual_seed(0)
    model = Classifier(
        MemDPC(**dict(encoder="tiny", img_size=32, mem_size=0) | sizes), num_classes
    ).double()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
    head = {
        name.replace("norm.", "final_bn.", 1).replace("linear.", "final_fc.1.", 1): value.clone()
        for name, value in model.state_dict().items()
        if name.startswith(("norm.", "linear."))
    }
    return model.eval(), {
        name: value
        for name, value in to_released(model).items()
        if name.startswith(("backbone.", "agg_"))
    } | head


@pytest.mark.parametrize("sizes", [{}, {"bidirectional": False}, {"encoder": "resnet18"}])
def test_released_classifier(sizes, tmp_path):
    model, entries = classifier_dict(**sizes)
    network = {"encoder": "tiny"} if "encoder" not in sizes else {}
    x = torch.randn(2, 3, 3, 5, 32, 32, dtype=torch.float64)
    torch.save(
        {"state_dict": {"module." + name: value for name, value in entries.items()}, "epoch": 3},
        tmp_path / "ft.pth.tar",
    )
    for source in (entries, tmp_path / "ft.pth.tar", str(tmp_path / "ft.pth.tar")):
        loaded = load_released_classifier(source, **network).eval()
        with torch.no_grad():
            assert torch.equal(loaded(x), model(x))
    assert loaded.linear.weight.dtype == torch.float64 and loaded(x).shape == (2, 5)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda e: e.pop("final_fc.1.weight"), "final_fc.1.weight: missing"),
        (lambda e: e.pop("final_bn.running_mean"), "final_bn.running_mean: missing"),
        (lambda e: e.update({"mb": torch.zeros(3, 64)}), "no such entry"),
        (lambda e: e.update({"final_fc.1.bias": torch.zeros(4)}), "shape"),
        (lambda e: e.update({"agg_b.cell_list.0.out_gate.bias": torch.ones(64)}), "copies differ"),
        (lambda e: e.update({"final_fc.1.weight": torch.zeros(3)}), "not a linear"),
    ],
)
def test_released_classifier_is_strict(change, said):
    entries = classifier_dict()[1]
    change(entries)
    with pytest.raises(CheckpointError, match=said):
        load_released_classifier(entries, encoder="tiny")


def test_a_trained_or_released_classifier_is_tested_again(whole, tmp_path, monkeypatch):
    trained = classify(job(whole, tmp_path, epochs=2))
    again = ClassifyConfig(mode="test", root=str(whole), num_workers=0, device="cpu")
    for number, checkpoint in enumerate(
        (tmp_path / "run", tmp_path / "run" / trained["tested_checkpoint"])
    ):
        result = classify(
            replace(
                again, checkpoint=str(checkpoint), out=str(tmp_path / f"again{number}"), crops=1
            )
        )
        assert {
            name: result[name] for name in ("accuracy", "top5", "chance", "classes", "test_videos")
        } == {
            name: trained[name] for name in ("accuracy", "top5", "chance", "classes", "test_videos")
        }
        assert np.allclose(
            np.load(tmp_path / f"again{number}" / "probabilities.npy"),
            np.load(tmp_path / "run" / "probabilities.npy"),
        )
    assert (
        json.loads((tmp_path / "again0" / "metrics.json").read_text())["mode"] == "test"
        and not (tmp_path / "again0" / "checkpoints").exists()
    )
    monkeypatch.setattr(
        module,
        "load_released_classifier",
        lambda path, **sizes: load_released_classifier(path, encoder="tiny", **sizes),
    )
    torch.save({"state_dict": classifier_dict(2)[1]}, tmp_path / "ft.pth.tar")
    released = replace(
        again,
        checkpoint=str(tmp_path / "ft.pth.tar"),
        out=str(tmp_path / "released"),
        img_size=32,
        num_blocks=2,
        frame_stride=1,
        crops=1,
    )
    assert classify(released)["test_videos"] == 4
    torch.save({"state_dict": classifier_dict(3)[1]}, tmp_path / "three.pth.tar")
    refused = [
        (
            dict(checkpoint=str(tmp_path / "three.pth.tar"), out=str(tmp_path / "new")),
            "of 3 classes",
        ),
        (dict(out=str(tmp_path / "run")), "holds a run"),
        (dict(checkpoint="random"), "no checkpoint"),
        (dict(checkpoint=str(save(tmp_path / "net", 0)), out=str(tmp_path / "new")), "net: "),
    ]
    for wrong, said in refused:
        with pytest.raises(MemdpcError, match=said) as error:
            classify(replace(released, **wrong))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_classifier_of_a_run_knows_its_clips(whole, tmp_path):
    """Finetuned with other sizes than it was pretrained with, and strided as the network's run
    was: the run's config says neither."""
    net = tmp_path / "pretrained"
    save(net / "checkpoints" / "step-00000001", 0)  # of 32 pixels, two blocks
    (net / "config.json").write_text(
        json.dumps({"dataset": "ucf101", "split": 1, "frame_stride": 1, "time_stride": None})
    )
    config = job(
        whole,
        tmp_path,
        checkpoint=str(net),
        mode="finetune",
        frame_stride=None,
        img_size=40,
        num_blocks=3,
        max_steps=1,
    )
    trained = classify(config)
    sizes = ActionClassifier.from_pretrained(
        str(tmp_path / "run" / trained["tested_checkpoint"])
    ).sizes
    assert (sizes["img_size"], sizes["num_blocks"], sizes["pred_steps"]) == (40, 3, 1)
    again = ClassifyConfig(
        mode="test",
        checkpoint=config.out,
        root=str(whole),
        out=str(tmp_path / "again"),
        crops=1,
        num_workers=0,
        device="cpu",
    )
    classify(again)
    assert np.allclose(
        np.load(tmp_path / "again" / "probabilities.npy"),
        np.load(tmp_path / "run" / "probabilities.npy"),
    )
    shutil.rmtree(net)
    with pytest.raises(ConfigError, match="say frame_stride"):
        classify(again)


def test_a_probe_leaves_a_run_its_figures(whole, tmp_path):
    run = classify(job(whole, tmp_path, max_steps=1))
    probed = classify(
        ClassifyConfig(
            checkpoint="random",
            encoder="tiny",
            img_size=32,
            num_blocks=2,
            frame_stride=1,
            root=str(whole),
            out=str(tmp_path / "run"),
            label_fraction=0.5,
            num_workers=0,
            device="cpu",
        )
    )
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {name: kept[name] for name in run} == run and kept["probe"] == probed["probe"]
    assert kept["probe_facts"] == {
        "mode": "probe",
        "split": 1,
        "label_fraction": 0.5,
        "draw": 0,
        "readout": "mean",
        "seed": 0,
        "videos": 8,
        "majority": 0.5,
    }
    assert probed["videos"] == 8 and probed["majority"] == 0.5


def test_what_a_run_says_beforehand(whole, tmp_path, caplog):
    caplog.set_level("INFO", "memdpc")
    config = job(
        whole,
        tmp_path,
        split=2,
        label_fraction=0.1,
        val_fraction=0.5,
        batch_size=2,
        max_steps=1,
        epochs=3,
        milestones=(2, 3),
    )
    with pytest.raises(ConfigError, match="fill"):
        classify(config)  # of one labelled video of each class one is held out
    warn_of_training(
        module.with_recipe(config),
        *(
            load_dataset("ucf101", whole, subset="train", progress=False).only(keep)
            for keep in (lambda v: True, lambda v: v.label)
        ),
    )
    assert (
        "1 classes have no labelled video left" in caplog.text
        and "at epochs 3: there are only 3" in caplog.text
    )
    run = tmp_path / "pretrained"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"dataset": "ucf101", "split": 1}))
    for mode, split, warns in (("probe", 2, True), ("finetune", 1, False), ("scratch", 2, False)):
        caplog.clear()
        module.warn_of_split(replace(config, checkpoint=str(run), mode=mode, split=split))
        assert ("has seen test videos of split 2" in caplog.text) == warns


def test_steps_stay_where_epochs_are_given():
    paper = at_fraction(ClassifyConfig(mode="finetune", epochs=50), 0.1, 2)
    assert (paper.epochs, paper.val_every, paper.milestones, paper.seed) == (
        500,
        10,
        (3000, 4000),
        2,
    )
    assert module.with_recipe(at_fraction(ClassifyConfig(mode="finetune"), 0.1, 0)).epochs == 350
    demo = at_fraction(CLASSIFY_PRESETS["demo-finetune"], 0.5, 0)
    assert (demo.epochs, demo.milestones, demo.dropout) == (8, (6,), 0)


def test_fields_that_a_mode_ignores_are_refused(tmp_path):
    config = ClassifyConfig(checkpoint="random", out=str(tmp_path / "out"))
    for wrong, said in (
        (dict(epochs=100), "probe does not use epochs"),
        (dict(crops=5, precision="no"), "crops, precision"),
        (dict(mode="linear", readout="std"), "readout"),
        (dict(mode="test", draw=1), "draw"),
    ):
        with pytest.raises(ConfigError, match=said):
            classify(replace(config, **wrong))
    for preset in CLASSIFY_PRESETS.values():
        refuse_unused_fields(replace(preset, mode="probe"))


# ---- mistakes


def test_users_mistakes(whole, tmp_path):
    config = job(whole, tmp_path)
    for words, said in (
        ("--mode train", "mode"),
        ("--crops 3", "crops"),
        ("--label_fraction 0", "label_fraction"),
        ("--backbone_lr 2", "backbone_lr"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse(config, words.split())
    refused = [
        (dict(batch_size=1), ConfigError, "batch_size"),
        (dict(label_fraction=0.1), ConfigError, "do not fill a batch"),
        (dict(out=""), ConfigError, "out"),
        (dict(checkpoint=""), ConfigError, "no checkpoint"),
        (dict(checkpoint=str(tmp_path / "nowhere")), CheckpointError, "no checkpoint here"),
        (dict(dataset="folder", root=str(whole / "videos")), DatasetError, "no test videos"),
    ]
    for wrong, kind, said in refused:
        with pytest.raises(kind, match=said) as error:
            classify(replace(config, **wrong))
        assert "\n" not in str(error.value)
    net = save(tmp_path / "net", 0)
    sizes = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps(sizes | {"encoder": "resnet18"}))
    with pytest.raises(CheckpointError, match="shape"):
        classify(replace(config, checkpoint=str(net), mode="finetune"))
    single = make(tmp_path / "single", 2, 1, ("Left",))
    with pytest.raises(DatasetError, match="one class"):
        classify(replace(config, root=str(single)))
    assert not (tmp_path / "run").exists()
    classify(replace(config, max_steps=1))
    with pytest.raises(ConfigError, match="holds a run already"):
        classify(replace(config, max_steps=1))
    with pytest.raises(ConfigError, match="other settings"):
        classify(replace(config, lr=1e-5, resume=True))


def test_mode_alone_is_the_papers_recipe():
    for mode in ("linear", "finetune", "scratch"):
        assert (
            parse(CLASSIFY_PRESETS["default"], ["--mode", mode])
            == CLASSIFY_PRESETS[f"paper-{mode}"]
        )
    config = config_from(
        CLASSIFY_PRESETS,
        {"preset": "paper-finetune", "milestones": "[1, 2]", "epochs": "3", "crops": "5"},
    )
    assert (config.milestones, config.epochs, config.crops, config.mode) == (
        (1, 2),
        3,
        5,
        "finetune",
    )


# ---- as it is started


@pytest.mark.slow
def test_two_processes(whole, tmp_path):
    words = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    words += [
        "--batch_size",
        "2",
        "--mode",
        "scratch",
        "--root",
        str(whole),
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            "2",
            "--standalone",
            "-m",
            "memdpc",
            "classify",
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["processes"], metrics["test_videos"], metrics["steps"]) == (
        2,
        4,
        24,
    )  # batches of two teach batch-norm little: no accuracy is asked for
    assert len(rows_of(tmp_path / "run" / "predictions.csv")) == 4
    classifier = ActionClassifier.from_pretrained(
        str(tmp_path / "run" / "checkpoints" / f"step-{metrics['tested_step']:08d}")
    )
    clips = Clips(
        load_dataset("ucf101", whole, subset="test", progress=False), 2, 5, 1, 32, starts=Every()
    )
    alone, _ = predict(
        make_accelerator("cpu"), lambda x: classifier(x).softmax(1), clips, 2
    )  # both processes tested the weights that were saved, each its share
    assert np.allclose(np.load(tmp_path / "run" / "probabilities.npy"), alone, atol=1e-6)


@pytest.mark.slow
def test_the_run_notebook(tmp_path):
    notebook = Path(__file__).parents[2] / "nbs" / "runs" / "classify.ipynb"
    done, target = papermill(tmp_path, notebook=notebook)
    assert done.returncode == 0, done.stderr
    assert "image/png" in target.read_text() and [
        path.name for path in tmp_path.iterdir() if path.name != "cache"
    ] == [target.name]
