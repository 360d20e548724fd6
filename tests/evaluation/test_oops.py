"""Unintentional action: labels, windows, what a prediction may see, annotations good and bad."""

import csv
import json
import math
import shutil
import signal
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from test_runs import papermill

from memdpc.base.config import OopsConfig
from memdpc.base.errors import MemdpcError, Stopped
from memdpc.cli import main
from memdpc.data.augment import normalize_clips
from memdpc.data.mishaps import write_mishaps
from memdpc.data.video import write_video
from memdpc.data.videos import load_dataset
from memdpc.evaluation.checkpoints import load_model
from memdpc.evaluation.oops import (
    OopsClassifier,
    OopsHead,
    Steps,
    annotator_rows,
    average_over_windows,
    blind_rows,
    class_measures,
    collect_parts,
    linear_rows,
    most_likely_time,
    oops,
    score_row,
    step_features,
    time_measures,
)
from memdpc.evaluation.oops_finetune import classification_step
from memdpc.evaluation.oops_labels import (
    annotated_videos,
    failure_time,
    fourth_annotator_times,
    label_moments,
    label_videos,
)
from memdpc.evaluation.oops_windows import (
    MOMENT,
    MOMENTS_PER_BLOCK,
    OversampledBatches,
    SlidingWindows,
    WindowTargets,
    class_weights,
    draw_steps,
    moments_of,
    scored_steps,
    window_steps,
)
from memdpc.method.model import MemDPC

pytestmark = pytest.mark.trains

SIZES = dict(
    encoder="tiny",
    img_size=32,
    num_blocks=3,
    block_len=5,
    pred_steps=1,
    mem_size=8,
    bidirectional=False,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "Mishaps, eight of each kind, written once; the folder that holds `oops_dataset`."
    folder = tmp_path_factory.mktemp("mishaps")
    write_mishaps(folder / "oops_dataset", 8, seed=1)
    return folder


@pytest.fixture
def own(root, tmp_path):
    "A copy to spoil."
    return shutil.copytree(root, tmp_path / "own")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    "A network's weights in a folder."
    folder = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    MemDPC(**SIZES).save_pretrained(folder)
    return folder


def job(root, tmp_path, net, **more):
    return OopsConfig(
        **dict(
            checkpoint=str(net),
            root=str(root),
            out=str(tmp_path / "out"),
            num_workers=0,
            device="cpu",
        )
        | more
    )


# ---- labels, clip by clip


@pytest.mark.parametrize(
    "times,length,memdpc,official",
    [
        ((-1, -1, -1), 9, math.inf, None),  # nobody saw a failure: intended throughout, or left out
        ((-1, 2.0, 2.4), 9, 2.2, 2.0),  # the median of two, or the middle of three with -1 kept
        ((-1, -1, 2.0), 9, 2.0, None),  # one against two
        ((2.4, -1, 2.0), 9, 2.2, 2.0),  # the order means nothing
        ((1.0, 5.0, 3.0), 9, 3.0, 3.0),  # three spread times
        ((0, 0, 0), 9, 0.0, None),  # at the very beginning: nearer to it than a hundredth
        ((9, 9, 9), 9, 9.0, None),  # at the very end
        ((0.09, 0.09, 0.09), 9, 0.09, 0.09),  # the limits themselves are inside
        ((1, 1, 1), 3.1, 1.0, None),
        ((1, 1, 1), 30.5, 1.0, None),
        ((1, 1, 1), 3.2, 1.0, 1.0),
        ((), 9, None, None),  # unlabelled
        ((2, 2, 10), 9, None, None),
    ],
)  # outside the video
def test_readings(times, length, memdpc, official):
    for reading, expected in (("memdpc", memdpc), ("oops", official)):
        when, reason = failure_time(times, length, reading)
        assert (expected is None) == bool(reason) and (expected is None or when == expected), (
            reading,
            when,
            reason,
        )


def test_labels_clip_by_clip():
    "A video of 4 s, clips of 1 s (their last frame 0.8 s after the first) every 0.25 s."
    starts = np.arange(13) * MOMENT

    def said(when):
        return "".join("ITU"[label] for label in label_moments(starts, starts + 0.8, when))

    assert said(math.inf) == "IIIIIIIIIIIII"
    assert said(2.2) == "IIIIIITTTUUUU"  # 1.5 to 2.3 is the first to hold it; 2.25 begins after it
    assert said(0) == "TUUUUUUUUUUUU"  # time 0: the first clip's first frame
    assert said(4) == "IIIIIIIIIIIII"  # time = length: no clip reaches it
    assert (
        said(2.0) == "IIIIITTTTUUUU"
    )  # closed: 2.0 is the first frame of the clip that begins there, and is within it
    assert said(1.8) == "IIIITTTTUUUUU"  # closed at the other end: 1.0 to 1.8
    assert said(1.81) == "IIIIITTTUUUUU"


# ---- windows


@pytest.mark.parametrize(
    "count,num_blocks", [(1, 3), (3, 3), (4, 2), (9, 3), (10, 3), (37, 6), (22, 6)]
)
def test_every_moment_is_in_a_window_and_steps_are_a_second_apart(count, num_blocks):
    steps = window_steps(count, num_blocks)
    assert set(steps[steps >= 0]) == set(range(count)) and steps.shape[1] == num_blocks
    for row in steps:
        real = row[row >= 0]
        assert (np.diff(real) == MOMENTS_PER_BLOCK).all() and (row[len(real) :] == -1).all()
    seen = steps[scored_steps(steps)]
    assert set(seen) == set(range(count))  # each is judged somewhere
    assert not (scored_steps(steps)[:, 0] & (steps[:, 0] >= MOMENTS_PER_BLOCK)).any()


def test_moving_average_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    parts = []
    for video, count in enumerate((11, 4, 30)):
        steps = window_steps(count, 3)
        moment = steps[scored_steps(steps)]
        parts.append((np.full(len(moment), video), moment, moment % 3))
    video, moment, label = map(np.concatenate, zip(*parts))
    scores = rng.random((len(video), 3))
    scores[::7] = np.nan
    nothing = np.zeros(len(video))
    timelines = average_over_windows(
        Steps(nothing, nothing, nothing, nothing, video, moment, label), scores
    )
    assert [len(t.label) for t in timelines] == [11, 4, 30]
    for t in timelines:
        for m in range(len(t.label)):
            held = [
                scores[s]
                for s in range(len(video))
                if video[s] == t.video and moment[s] == m and not np.isnan(scores[s]).any()
            ]
            assert t.label[m] == m % 3
            np.testing.assert_allclose(t.scores[m], np.mean(held, 0) if held else 0)


def test_a_time_is_judged_by_the_blocks_that_hold_it():
    scores = np.zeros(20)
    scores[9:13] = 1  # blocks beginning at 2.25 to 3 s: all hold 3.0 s, and no other time
    assert most_likely_time(scores) == 3.0


# ---- what a prediction may see


def test_prediction_sees_nothing_of_its_own_block_or_later():
    "To the bit, in eval mode; and it does see the block before."
    torch.manual_seed(0)
    model = MemDPC(**SIZES | dict(num_blocks=4)).eval()
    blocks = torch.randint(0, 256, (13, 3, 5, 32, 32), dtype=torch.uint8)
    steps, _, before, _ = step_features(model, blocks, 4)
    for t in 1, 2, 3:
        changed = blocks.clone()
        changed[MOMENTS_PER_BLOCK * t :] = torch.randint(
            0, 256, changed[MOMENTS_PER_BLOCK * t :].shape, dtype=torch.uint8
        )
        after = step_features(model, changed, 4)[2]
        assert torch.equal(before[0, 1 : t + 1], after[0, 1 : t + 1])
        if t < 3:
            assert not torch.equal(before[0, t + 1], after[0, t + 1])
    assert before[:, 0].isnan().all()


def test_padded_steps_change_nothing():
    torch.manual_seed(0)
    model = MemDPC(**SIZES).eval()
    blocks = torch.randint(0, 256, (6, 3, 5, 32, 32), dtype=torch.uint8)
    steps, z, predicted, _ = step_features(model, blocks, 3)
    assert (steps == [[0, 4, -1], [1, 5, -1], [2, -1, -1], [3, -1, -1]]).all()
    alone = model.predict_next(model.encode(normalize_clips(blocks[[0, 4]][None])))[0, 0].mean(
        (1, 2)
    )
    torch.testing.assert_close(predicted[0, 1], alone)


# ---- training draws


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.6])
def test_oversampling_gives_the_stated_share(share):
    labels = np.repeat([0, 1, 2], [400, 100, 500])
    drawn = labels[draw_steps(labels, share, 100_000, np.random.default_rng(0))]
    shares = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(
        shares, [(1 - share) * 4 / 9, share, (1 - share) * 5 / 9], atol=0.006
    )
    np.testing.assert_allclose((class_weights(labels, share)[labels]).mean(), 1)
    batches = list(OversampledBatches(labels, share, 64, 50, start=2))
    assert (
        batches == list(OversampledBatches(labels, share, 64, 50))[2:]
    )  # a resumed run draws the same
    assert abs(np.mean([labels[i] == 1 for batch in batches for _, i in batch]) - share) < 0.05
    halves = [
        list(OversampledBatches(labels, share, 32, 3, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    assert sorted(halves[0][0] + halves[1][0]) == sorted(
        list(OversampledBatches(labels, share, 64, 1))[0]
    )


def test_targets_are_the_steps_of_windows(root):
    labelled, _ = label_videos(load_dataset("oops", root, progress=False))
    videos, failures = labelled
    targets = WindowTargets(videos, failures, 3, 5, 32)
    assert len(targets.clips) == sum(
        len(window_steps(count, 3)) for count in moments_of(videos, 32).counts()
    )
    item = targets[0, 17]
    window, step = targets.places[17]
    number, which = targets.clips.locate(window)
    assert (
        item["start"] == which * MOMENT
        and item["valid"][step]
        and item["clip"].shape == (3, 3, 5, 32, 32)
    )
    start = item["start"] + step
    assert item["target"] == label_moments([start], [start + 0.8], failures[number])[0]
    assert isinstance(targets.clips.starts, SlidingWindows)


# ---- measures


def test_measures_by_hand():
    labels = [0] * 4 + [1] * 2 + [2] * 4
    predicted = [0, 0, 0, 2, 1, 2, 2, 2, 0, 0]
    measures = class_measures(labels, predicted)
    assert measures["accuracy"] == 0.6 and measures["balanced_accuracy"] == pytest.approx(
        (0.75 + 0.5 + 0.5) / 3
    )
    assert (
        class_measures([0, 2], [0, 0])["balanced_accuracy"] == 0.5
    )  # a class that does not occur does not count
    assert class_measures([0, 2], [0, 1])["recall_transition"] is None
    found = time_measures(
        [2.0, 5.0, 1.0, math.nan], [(2.2, -1, 4), (2, 2, 2), (-1, -1, -1), (1, 1, 1)]
    )
    assert (
        found["within_0.25"] == pytest.approx(1 / 3)
        and found["within_1"] == pytest.approx(1 / 3)
        and found["median_error"] == 3
    )


def test_where_no_test_video_fails_there_is_nothing_to_find():
    nothing = np.zeros(5)
    rows = blind_rows(
        Steps(
            nothing,
            nothing,
            nothing,
            nothing,
            nothing.astype(int),
            np.arange(5),
            nothing.astype(int),
        ),
        [(-1, -1, -1)],
    )
    assert all(
        row[name] is None for row in rows for name in ("within_0.25", "within_1", "median_error")
    )
    assert [row["name"] for row in rows] == ["always 'unintentional'", "chance"]
    assert rows[1]["confusion"] == [[5 / 3] * 3, [0] * 3, [0] * 3]


def test_every_weight_that_is_trained_gets_a_gradient():
    "Several processes wait for all of them; the aggregator that looks backward has no part in it."
    torch.manual_seed(0)
    model = OopsClassifier(**SIZES | dict(bidirectional=True))
    model(torch.randn(2, 3, 3, 5, 32, 32))[:, -1].sum().backward()
    assert (
        {name for name, weight in model.named_parameters() if weight.grad is None}
        == {name for name, weight in model.named_parameters() if not weight.requires_grad}
        != set()
    )


def test_head_takes_unknown_for_the_mean():
    head = OopsHead(4)
    head.standardise(np.array([[1, 2, 3, 4], [3, 2, 1, 0], [1, 1, np.nan, 1]], np.float32))
    known = head(torch.tensor([[5.0, 5.0]]), torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(
        head(torch.tensor([[5.0, 5.0]]), torch.full((1, 2), math.nan)), known
    )


def test_a_classifier_is_saved_and_read(tmp_path):
    torch.manual_seed(0)
    model = OopsClassifier(**SIZES).eval()
    x = torch.randn(1, 3, 3, 5, 32, 32)
    model.save_pretrained(tmp_path / "net")
    assert torch.equal(
        OopsClassifier.from_pretrained(str(tmp_path / "net"))(x), model(x)
    ) and model(x).shape == (1, 3, 3)


# ---- end to end


@pytest.mark.slow
def test_end_to_end(root, net, tmp_path):
    config = job(root, tmp_path, net)
    result = oops(config)
    rows = {row["name"]: row for row in result["oops"]}
    assert (
        rows["always 'unintentional'"]["balanced_accuracy"]
        == rows["chance"]["balanced_accuracy"]
        == pytest.approx(1 / 3)
    )
    assert (
        rows["a fourth annotator"]["balanced_accuracy"] > 0.8
        and rows["a fourth annotator"]["within_1"] > 0.9
    )
    counts = result["oops_videos"]
    assert (counts["train_videos"], counts["train_labelled"], counts["test_labelled"]) == (
        24,
        20,
        8,
    )
    assert all(
        np.sum(row["confusion"]) == pytest.approx(np.sum(rows["chance"]["confusion"]))
        for name, row in rows.items()
        if "annotator" not in name
    )
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == result and len(
        result["oops"]
    ) == len(rows)


@pytest.mark.slow
def test_finetuned_stopped_and_resumed(root, net, tmp_path, monkeypatch):
    "Stopped and resumed: the same classifier to the bit; a finished run is not trained again."

    def finetuned(out, **more):
        return oops(
            job(
                root,
                tmp_path,
                net,
                mode="finetune",
                max_steps=4,
                batch_size=4,
                out=str(tmp_path / out),
                **more,
            )
        )["oops"]

    whole, seen = finetuned("whole"), []
    assert whole[0]["name"] == "finetuned: z and predicted z"

    def interrupting(model, batch):
        seen.append(batch["target"].tolist())
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)
        return classification_step(model, batch)

    monkeypatch.setattr("memdpc.evaluation.oops_finetune.classification_step", interrupting)
    with pytest.raises(Stopped):
        finetuned("parts")
    with pytest.raises(MemdpcError, match="holds a run already"):
        finetuned("parts")
    assert finetuned("parts", resume=True) == whole and len(seen) == 4
    weights = [
        (tmp_path / out / "classifier/model.safetensors").read_bytes() for out in ("whole", "parts")
    ]
    assert weights[0] == weights[1] and finetuned("parts", resume=True) == whole and len(seen) == 4


# ---- an official tree, and what is wrong with one


def official(root, clip):
    "Oops! as it unpacks: eight training videos, one without times, and two for validation."
    names = {
        "train": [
            'It\'s "fine"',
            "no #1!",
            "Ünfälle 2",
            "wet floor",
            " leading space",
            "a+b",
            "plain",
            "without times",
        ],
        "val": ["val 1", "vàl 2"],
    }
    times = {
        name: [2.0 + 0.1 * i, 2.1 + 0.1 * i, -1]
        for i, name in enumerate(names["train"][:-1] + names["val"])
    }
    notes = root / "oops_dataset/annotations"
    notes.mkdir(parents=True)
    for part, listed in names.items():
        (root / "oops_dataset/oops_video" / part).mkdir(parents=True)
        for name in listed:
            shutil.copy(clip, root / f"oops_dataset/oops_video/{part}/{name}.mp4")
        for suffix, kept in (("", listed), ("_filtered", listed[:6])):
            (notes / f"{part}{suffix}.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    table = {
        name: {
            "t": t,
            "len": 5.0,
            "stdev": 0.1,
            "rel_t": [x / 5 for x in t],
            "rel_stdev": 0.02,
            "n_notfound": 1,
        }
        for name, t in times.items()
    }
    (notes / "transition_times.json").write_text(json.dumps(table))
    (notes / "heldout_transition_times.json").write_text(
        json.dumps({"val 1": {"t": [2.3], "len": 5.0, "n_notfound": 0}})
    )
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(
        path, np.random.default_rng(0).integers(0, 255, (50, 32, 32, 3), dtype=np.uint8), fps=10
    )
    return path


SMALL = [
    "--preset",
    "demo",
    "--img_size",
    "32",
    "--num_blocks",
    "3",
    "--block_len",
    "5",
    "--pred_steps",
    "1",
    "--mem_size",
    "8",
    "--batch_size",
    "2",
    "--max_steps",
    "1",
    "--val_fraction",
    "0",
    "--num_workers",
    "0",
    "--device",
    "cpu",
    "--bidirectional",
    "False",
    "--time_stride",
    "0.2",
]


@pytest.mark.slow
@pytest.mark.parametrize("dataset,labels", [("oops", 7), ("oops-filtered", 6)])
def test_an_official_tree_goes_through_all_commands(tmp_path, clip, dataset, labels, capsys):
    root = official(tmp_path / "D", clip)
    place = ["--dataset", dataset, "--root", str(root)]
    main(["scan", *place, "--out", str(tmp_path / "scan"), "--num_workers", "0"])
    main(["pretrain", *place, "--out", str(tmp_path / "run"), *SMALL])
    main(
        [
            "oops",
            *place,
            "--checkpoint",
            str(tmp_path / "run"),
            "--out",
            str(tmp_path / "oops"),
            "--num_workers",
            "0",
            "--device",
            "cpu",
        ]
    )
    counts = json.loads((tmp_path / "oops/metrics.json").read_text())["oops_videos"]
    assert (counts["train_labelled"], counts["train_failing"], counts["test_labelled"]) == (
        labels,
        labels,
        2,
    )
    assert counts["train_unlabelled"] == (dataset == "oops")
    assert "\noops\n" in capsys.readouterr().out


def refused(capsys, *args):
    "The one line, exit status 2."
    with pytest.raises(SystemExit) as stop:
        main(["oops", "--num_workers", "0", "--device", "cpu", *map(str, args)])
    assert stop.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("memdpc: ")]
    assert len(said) == 1
    return said[0]


def annotations(root):
    return root / "oops_dataset/annotations"


def test_what_is_missing_or_does_not_fit_is_counted_and_listed(own, net, tmp_path, caplog):
    "Annotations without a video, and the reverse; all three at -1; times outside the video."
    path = annotations(own) / "transition_times.json"
    times = json.loads(path.read_text())
    train = sorted(
        name for name in times if (own / f"oops_dataset/oops_video/train/{name}.mp4").exists()
    )
    gone, nobody, outside = train[:3]
    (own / f"oops_dataset/oops_video/train/{gone}.mp4").unlink()
    times[nobody]["t"], times[outside]["t"] = [-1, -1, -1], [100.0, 100.0, 2.0]
    times["in no list"] = times[nobody]
    path.write_text(json.dumps(times))
    shutil.copy(
        own / f"oops_dataset/oops_video/train/{nobody}.mp4",
        own / "oops_dataset/oops_video/train/stray.mp4",
    )
    with caplog.at_level("INFO", "memdpc"):
        counts = annotated_videos(job(own, tmp_path, net))[1]
    assert (
        counts["train_videos"],
        counts["train_labelled"],
        counts["train_unlabelled"],
        counts["train_skipped"],
    ) == (23, 18, 5, 3)
    said = caplog.text
    for reason in (
        "no such file",
        "has times, and is in no list",
        "is not in train.txt",
        "has no times",
        "has a time after its end",
    ):
        assert reason in said, reason
    videos = load_dataset("oops", own, progress=False)
    (kept, failures), _ = label_videos(videos)
    failure_of = {video.path: failure for video, failure in zip(kept.videos, failures)}
    assert [failure_of[path] for path in failure_of if nobody in path] == [math.inf]
    assert any(nobody in path for path, _ in label_videos(videos, "oops")[1])


def test_one_line_for_annotations_that_cannot_be_read(own, net, tmp_path, capsys):
    place = ["--checkpoint", net, "--root", own, "--out", tmp_path / "out"]
    path = annotations(own) / "transition_times.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert "transition_times.json: is no JSON" in refused(capsys, *place)
    path.write_text("{}")
    assert "no train video has times of failure" in refused(capsys, *place)
    path.write_text(text)
    fourth = annotations(own) / "heldout_transition_times.json"
    fourth.write_text(fourth.read_text()[:20])
    assert "heldout_transition_times.json: is no JSON" in refused(capsys, *place)
    (annotations(own) / "train.txt").write_text("../../../etc/passwd\n")
    assert "leads out of the dataset" in refused(capsys, *place)
    assert "no checkpoint" in refused(capsys, "--root", own, "--out", tmp_path / "out")
    assert "no out" in refused(capsys, "--root", own, "--checkpoint", net)
    assert "val_fraction" in refused(capsys, *place, "--val_fraction", 0)


def test_names_in_another_normal_form(own, net, tmp_path):
    "Files in NFD, lists in NFC: what some unpackers make of them."
    before = len(load_dataset("oops", own, progress=False))
    for path in sorted((own / "oops_dataset/oops_video").rglob("*.mp4")):
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    parts, counts = annotated_videos(job(own, tmp_path, net))
    assert (
        counts["train_videos"] == before
        and counts["train_labelled"] == 20
        and not counts["train_skipped"]
    )
    assert any(fourth_annotator_times(job(own, tmp_path, net), parts["test"][0]))


@pytest.mark.slow
def test_a_slice_of_the_study_again(tmp_path):
    "What needs no pretraining, for the study's first seed, comes out as the committed file has it."
    with open(
        Path(__file__).resolve().parents[2] / "nbs/runs/results/oops_seeds.csv",
        newline="",
        encoding="utf-8",
    ) as file:
        committed = {row["name"]: row for row in csv.DictReader(file) if row["seed"] == "3"}
    write_mishaps(tmp_path / "d/oops_dataset", 64, seed=3, num_workers=2)
    config = job(tmp_path / "d", tmp_path, "random", seed=3)
    sizes = dict(
        encoder="tiny",
        img_size=32,
        num_blocks=6,
        block_len=5,
        pred_steps=1,
        mem_size=128,
        bidirectional=False,
        dropout=0.1,
        address_gain=8.0,
    )
    parts, _ = annotated_videos(config)
    times = [video.transitions for video in parts["test"][0].videos]
    steps = collect_parts(config, load_model("random", 3, **sizes), sizes, parts, "cpu")
    rows = [
        *linear_rows(config, "random", steps, times, ("z and predicted z",))[0],
        score_row("motion, untrained", steps["test"], steps["test"].motion, times),
        *blind_rows(steps["test"], times),
        *annotator_rows(steps["test"], fourth_annotator_times(config, parts["test"][0]), times),
    ]
    for row in rows:
        for measure in ("balanced_accuracy", "accuracy", "within_1"):
            assert row[measure] == pytest.approx(
                float(committed[row["name"]][measure]), abs=0.02
            ), (row["name"], measure)


@pytest.mark.slow
def test_the_run_notebook(tmp_path, root, net):
    "Through papermill on a dataset of one's own; a wrong name ends it."
    words = [
        "-p",
        "root",
        root,
        "-p",
        "checkpoint",
        net,
        "-p",
        "out",
        tmp_path / "out",
        "-p",
        "num_workers",
        0,
        "-p",
        "device",
        "cpu",
    ]
    notebook = Path(__file__).resolve().parents[2] / "nbs/runs/oops.ipynb"
    done, target = papermill(tmp_path, *words, notebook=notebook, cwd=notebook.parents[2])
    assert done.returncode == 0, done.stderr
    assert (
        json.loads((tmp_path / "out/metrics.json").read_text())["oops_videos"]["test_labelled"] == 8
        and "image/png" in target.read_text()
    )
    done, _ = papermill(
        tmp_path, "-p", "checkpont", "x", notebook=notebook, cwd=notebook.parents[2]
    )
    assert done.returncode and "'checkpont' is not a parameter of this job" in done.stderr


def test_the_command_shapes_writes_both_datasets(tmp_path):
    "One folder, two layouts: actions as UCF101, mishaps as Oops!."
    main(["shapes", "--out", str(tmp_path / "s"), "--videos_per_class", "4", "--num_workers", "0"])
    actions, mishaps = (
        load_dataset(name, tmp_path / "s", progress=False) for name in ("ucf101", "oops")
    )
    assert (
        len(actions) == 24
        and len(mishaps) == 12
        and any(video.transitions for video in mishaps.videos)
    )
    assert (
        {video.info.fps for video in mishaps.videos} <= {10, 12, 15, 20}
        and not actions.skipped
        and not mishaps.skipped
    )
