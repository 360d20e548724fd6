"""Measurements end to end on a tiny dataset of known answers, and what they say of data and
files that do not serve."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from memdpc.base.config import AtlasConfig, ClassifyConfig, FeaturesConfig, RetrieveConfig
from memdpc.base.errors import CheckpointError, ConfigError, DatasetError, TrainingError
from memdpc.data.video import write_video
from memdpc.data.videos import load_dataset
from memdpc.evaluation import features as features_module
from memdpc.evaluation import shards as shards_module
from memdpc.evaluation.arrays import Features, load_features
from memdpc.evaluation.atlas_data import load_memory_model
from memdpc.evaluation.checkpoints import strides
from memdpc.evaluation.classify import classify, load_classifier, probe_accuracy
from memdpc.evaluation.features import load_model, measured_features, write_features
from memdpc.evaluation.retrieve import compare_representations, comparison_table, retrieve
from memdpc.method.model import MemDPC

CLASSES = "Left", "Right"
SIZES = dict(encoder="tiny", img_size=32, num_blocks=2, block_len=5, pred_steps=1, mem_size=8)


def drift(step, seed):
    """uint8 [20, 32, 32, 3]: a square that moves by `step` pixels a frame, for Left over a dark
    ground, for Right over a bright one."""
    rng = np.random.default_rng(seed)
    clip = np.full((20, 32, 32, 3), 30 if step < 0 else 200, np.uint8)
    x, y = rng.integers(32, size=2)
    for t in range(20):
        clip[t][np.ix_((y + np.arange(8)) % 32, (x + step * t + np.arange(8)) % 32)] = 120
    return clip


def make(root, train=4, test=2, classes=CLASSES):
    """A dataset in UCF101's layout: `train` and `test` videos of each class, two to a group."""
    lists = {"train": [], "test": []}
    for label, name in enumerate(classes):
        (root / "videos" / name).mkdir(parents=True)
        for i in range(train + test):
            file = f"{name}/v_{name}_g{i // 2 + 1:02d}_c{i % 2 + 1:02d}.mp4"
            write_video(root / "videos" / file, drift(4 * label - 2, 10 * label + i))
            lists["train" if i < train else "test"].append(file)
    splits = root / "splits_classification"
    splits.mkdir()
    (splits / "classInd.txt").write_text(
        "".join(f"{i + 1} {name}\n" for i, name in enumerate(classes))
    )
    for part, files in lists.items():
        (splits / f"{part}list01.txt").write_text("".join(f"{file}\n" for file in files))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "set")


def save(folder, seed):
    """A network's weights in a folder, as `from_pretrained` reads them."""
    torch.manual_seed(seed)
    MemDPC(**SIZES).save_pretrained(folder)
    return folder


def job(kind, root, tmp_path, checkpoint, **more):
    return kind(
        **dict(
            checkpoint=str(checkpoint),
            root=str(root),
            out=str(tmp_path / "out"),
            frame_stride=1,
            num_workers=0,
            device="cpu",
        )
        | more
    )


def test_known_answers_end_to_end(whole, tmp_path):
    """The ground's brightness tells the class, so pixels must find it; metrics.json holds both
    measurements and the table."""
    config = job(RetrieveConfig, whole, tmp_path, save(tmp_path / "net", 0))
    assert retrieve(config)["retrieval_r1"]["mean image"] == 1
    probed = classify(job(ClassifyConfig, whole, tmp_path, tmp_path / "net"))
    assert (
        probed["probe"]["mean image"] == probed["probe"]["single frame"] == 1
        and probed["chance"] == 0.5
    )
    assert list(probed["probe"]) == [
        "pretrained",
        "random",
        "random, batch-norm recalibrated",
        "mean image",
        "single frame",
    ]
    by_context = classify(job(ClassifyConfig, whole, tmp_path, tmp_path / "net", readout="context"))
    assert list(by_context["probe"]) == list(probed["probe"])[:3]  # pixels have no context
    assert by_context["probe_facts"]["readout"] == "context"
    rows = compare_representations(config)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    lines = comparison_table(metrics).splitlines()
    assert len(rows) == 10 and metrics["retrieval_r1"]["mean image"] == 1
    assert len(lines) == 8 and lines[-1].split() == ["chance"] + ["0.500"] * 4
    assert [line[:34].strip() for line in lines[2:-1]] == list(metrics["probe"])
    pixels = next(
        row for row in rows if (row["features"], row["readout"]) == ("mean image", "mean")
    )
    assert (
        lines[5].split()[2:] == ["1.000", lines[5].split()[3], "1.000", lines[5].split()[5]]
        and pixels["probe"] == 1
    )


def counted(monkeypatch):
    """How often features of a part were computed."""
    calls, honest = [], shards_module.compute_shards
    monkeypatch.setattr(
        shards_module, "compute_shards", lambda *args: calls.append(args[-1]) or honest(*args)
    )
    return calls


def test_kept_features_are_those_of_these_weights_and_videos(whole, tmp_path, monkeypatch):
    calls, net = counted(monkeypatch), save(tmp_path / "net", 0)
    config = job(RetrieveConfig, whole, tmp_path, net)
    first = measured_features(config)[0]["pretrained"][0].blocks
    assert np.array_equal(
        measured_features(config)[0]["pretrained"][0].blocks, first
    ) and calls == [
        "train",
        "test",
    ]
    save(net, 1)  # the same folder, other weights
    assert (
        not np.array_equal(measured_features(config)[0]["pretrained"][0].blocks, first)
        and len(calls) == 4
    )
    root = shutil.copytree(whole, tmp_path / "moved")
    measured_features(job(RetrieveConfig, root, tmp_path, net))
    write_video(
        root / "videos" / "Left" / "v_Left_g01_c01.mp4", drift(-2, 99)
    )  # the same name and length, another picture
    measured_features(job(RetrieveConfig, root, tmp_path, net))
    assert len(calls) == 8


def test_interrupted_features_never_pass_for_whole_ones(whole, tmp_path, monkeypatch):
    """Other weights are measured and interrupted after the first part: back at the first
    weights, nothing of it is taken."""
    net, honest = save(tmp_path / "net", 0), shards_module.compute_shards
    config = job(RetrieveConfig, whole, tmp_path, net)
    expected = measured_features(config)[0]["pretrained"]

    def interrupted(*args):
        if args[-1] == "test":
            raise KeyboardInterrupt
        return honest(*args)

    monkeypatch.setattr(shards_module, "compute_shards", interrupted)
    save(net, 1)
    with pytest.raises(KeyboardInterrupt):
        measured_features(config)
    monkeypatch.setattr(shards_module, "compute_shards", honest)
    save(net, 0)
    for found, wanted in zip(measured_features(config)[0]["pretrained"], expected):
        assert np.array_equal(found.blocks, wanted.blocks)
    (tmp_path / "out" / "features" / "origin.json").write_text('{"made fr')  # cut short by a copy
    assert measured_features(config)[0].keys() >= {"pretrained"}


def test_features_that_another_job_replaces_meanwhile_are_not_taken(whole, tmp_path, monkeypatch):
    """2026-11: two networks were measured in one folder, and one got the features of the other."""
    config = job(RetrieveConfig, whole, tmp_path, "random", encoder="tiny", img_size=32)
    measured_features(config)
    honest = shards_module.load_features

    def disturbed(folder):
        made_from = {"kind": "a network and its baselines"}
        shards_module._write_origin(tmp_path / "out" / "features", made_from)
        return honest(folder)

    monkeypatch.setattr(shards_module, "load_features", disturbed)
    with pytest.raises(ConfigError, match="another job writes other features here"):
        measured_features(config)


def test_broken_video_is_dropped_not_mislabelled(whole, tmp_path):
    """A video that went bad unnoticed (same size, same time) leaves its place; the others keep
    their own features and labels."""
    root = shutil.copytree(whole, tmp_path / "set")
    config = job(
        RetrieveConfig, root, tmp_path, "random", encoder="tiny", img_size=32, num_blocks=2
    )
    before = measured_features(config)[0]["mean image"][0]
    number = 3  # the last of Left; Right's first would stand in its place
    file = root / load_dataset("ucf101", root, progress=False).videos[number].path
    status = os.stat(file)
    file.write_bytes(bytes(status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    shutil.rmtree(tmp_path / "out")
    after = measured_features(config)[0]["mean image"][0]
    assert np.array_equal(after.labels, np.delete(before.labels, number)) and np.array_equal(
        after.groups, np.delete(before.groups, number)
    )
    assert np.allclose(after.blocks, np.delete(before.blocks, number, 0), atol=1e-6)
    assert np.array_equal(
        load_features(tmp_path / "out" / "features" / "mean image" / "train").labels, after.labels
    )


def test_sets_without_classes_or_with_one_are_refused(whole, tmp_path):
    for kind in (ClassifyConfig, RetrieveConfig):
        with pytest.raises(DatasetError, match="no test videos"):
            (classify if kind is ClassifyConfig else retrieve)(
                job(
                    kind,
                    whole / "videos",
                    tmp_path,
                    "random",
                    encoder="tiny",
                    img_size=32,
                    dataset="folder",
                )
            )
    single = make(tmp_path / "single", 1, 1, CLASSES[:1])
    with pytest.raises(DatasetError, match="one class"):
        classify(job(ClassifyConfig, single, tmp_path, "random", encoder="tiny", img_size=32))
    assert not (tmp_path / "out").exists()


def test_smallest_set_and_a_class_that_is_not_tested(tmp_path):
    """One training video of each class, and no test video of one of them."""
    root = make(tmp_path / "set", 1, 1)
    tests = root / "splits_classification" / "testlist01.txt"
    tests.write_text(tests.read_text().splitlines()[0] + "\n")
    config = job(
        ClassifyConfig, root, tmp_path, "random", encoder="tiny", img_size=32, num_blocks=2
    )
    result = classify(config)
    assert (
        result["probe"]["mean image"] == 1
        and result["chance"] == 0.5
        and "pretrained" not in result["probe"]
    )
    assert (
        retrieve(
            job(RetrieveConfig, root, tmp_path, "random", encoder="tiny", img_size=32, num_blocks=2)
        )["retrieval_r1"]["mean image"]
        == 1
    )


def test_probe_with_too_few_groups_to_hold_out():
    x, y = np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    by_class = Features(
        x[:, None], x[:, :0], y, np.array(["g01", "g01", "g02", "g02"])
    )  # a held-out group takes a class with it
    assert probe_accuracy(by_class, by_class, "mean") == 1


def released_file(path):
    """A `.pth.tar` in the released format: the weights of a ResNet-18, in float64."""
    entries = {}
    names = [
        (r"forward_gru.", "agg_f.cell_list.0."),
        ("backward_gru.", "agg_b.cell_list.0."),
        ("encoder.", "backbone."),
        ("predictor.phi.", "network_pred."),
        ("predictor.slots", "mb"),
    ]
    torch.manual_seed(0)
    model = MemDPC(encoder="resnet18", img_size=32, mem_size=8).double()
    for name, value in model.state_dict().items():
        ours, theirs = next((pair for pair in names if name.startswith(pair[0])), ("", ""))
        entries["module." + theirs + name[len(ours) :]] = value
    torch.save(
        {"epoch": 1, "state_dict": entries, "best_acc": 0.5, "optimizer": {}, "iteration": 2}, path
    )


def test_released_file_as_checkpoint(whole, tmp_path):
    path = tmp_path / "released.pth.tar"
    released_file(path)
    features, _ = measured_features(
        job(RetrieveConfig, whole, tmp_path, path, img_size=32, num_blocks=2)
    )
    assert (
        features["pretrained"][0].blocks.shape == (8, 2, 256)
        and np.isfinite(features["pretrained"][1].context).all()
    )


def test_checkpoints_that_do_not_serve(whole, tmp_path):
    run = tmp_path / "run"
    save(run / "checkpoints" / "step-00000004", 0)
    last = run / "checkpoints" / "step-00000008"
    shutil.copytree(run / "checkpoints" / "step-00000004", last)
    weights = (last / "model.safetensors").read_bytes()
    config = job(RetrieveConfig, whole, tmp_path, run, frame_stride=None)
    for damage in (weights[:1000], b""):
        (last / "model.safetensors").write_bytes(damage)
        with pytest.raises(CheckpointError, match="step-00000008"):
            retrieve(config)
    (last / "model.safetensors").write_bytes(weights)
    (run / "config.json").write_text('{"frame_st')
    with pytest.raises(CheckpointError, match="config.json: damaged"):
        retrieve(config)
    (tmp_path / "text.pth.tar").write_text("not weights")
    with pytest.raises(CheckpointError, match="text.pth.tar"):
        retrieve(job(RetrieveConfig, whole, tmp_path, tmp_path / "text.pth.tar"))
    with pytest.raises(ConfigError, match="no checkpoint"):
        retrieve(job(RetrieveConfig, whole, tmp_path, ""))
    with pytest.raises(ConfigError, match="no out"):
        retrieve(job(RetrieveConfig, whole, tmp_path, "random", out=""))


def test_reading_that_fails_in_another_process_is_one_line(whole, tmp_path, monkeypatch):
    def unreadable(*args):
        raise DatasetError("a hundred clips in a row cannot be read any more")

    monkeypatch.setattr("memdpc.data.clips.read_clip", unreadable)
    clips = features_module.Clips(
        load_dataset("ucf101", whole, progress=False), 2, 5, 1, 32, starts=features_module.Even()
    )
    with pytest.raises(TrainingError) as error:
        features_module.compute_features(
            {"pixels": features_module.mean_image}, clips, num_workers=1
        )
    assert str(error.value) == "a hundred clips in a row cannot be read any more"


def test_folder_that_cannot_be_written_is_found_before_the_work(whole, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "features").write_text(
        "a file in the way"
    )  # root may write anywhere: this stands for a read-only folder
    with pytest.raises(OSError, match="features"):
        retrieve(
            job(
                RetrieveConfig, whole, tmp_path, "random", encoder="tiny", img_size=32, num_blocks=2
            )
        )
    assert not calls


def test_a_classifier_is_measured_by_its_encoder(whole, tmp_path):
    """2026-11: features of a finetuned network: 'predictor.slots: missing in the checkpoint'."""
    began = job(
        ClassifyConfig,
        whole,
        tmp_path,
        "random",
        mode="scratch",
        encoder="tiny",
        img_size=32,
        num_blocks=2,
        max_steps=1,
        batch_size=2,
        val_fraction=0,
        crops=1,
        out=str(tmp_path / "run"),
    )
    classify(began)
    config = job(FeaturesConfig, whole, tmp_path, tmp_path / "run", frame_stride=None)
    assert strides(config) == {"frame_stride": 1, "time_stride": None}
    assert write_features(config)["test"]["videos"] == 4
    network = load_model(tmp_path / "run")
    trained = load_classifier(tmp_path / "run", CLASSES)
    for name, value in trained.forward_gru.state_dict().items():
        assert torch.equal(network.forward_gru.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="a classifier, which has neither a memory"):
        load_memory_model(job(AtlasConfig, whole, tmp_path, tmp_path / "run"))
    with pytest.raises(CheckpointError, match="a pretrained network, not a classifier"):
        load_classifier(save(tmp_path / "net", 0), CLASSES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_measured(dtype, whole, tmp_path):
    """2026-11: a network saved in another precision than float32 ended in a traceback."""
    MemDPC(**SIZES).to(dtype).save_pretrained(tmp_path / "net")
    assert MemDPC.from_pretrained(tmp_path / "net").predictor.slots.dtype == dtype
    config = job(FeaturesConfig, whole, tmp_path, tmp_path / "net")
    assert write_features(config)["train"]["videos"] == 8
