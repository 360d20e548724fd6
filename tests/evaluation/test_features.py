"""Features in shards: the same bits whatever kills them, however many processes share them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_measure import drift, make, save

from memdpc import cli
from memdpc.base.config import FeaturesConfig, RetrieveConfig
from memdpc.base.errors import CheckpointError, ConfigError, TrainingError
from memdpc.data.video import write_video
from memdpc.evaluation import arrays as arrays_module
from memdpc.evaluation import features as features_module
from memdpc.evaluation import shards as shards_module
from memdpc.evaluation.arrays import ARRAYS, Features, load_features, save_features
from memdpc.evaluation.checkpoints import load_model, run_config
from memdpc.evaluation.features import measured_features, write_features
from memdpc.evaluation.retrieve import retrieve
from memdpc.evaluation.shards import cut_into_shards
from memdpc.method.model import MemDPC

pytestmark = pytest.mark.trains


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "set", train=20, test=6)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "small", train=2, test=1)


def job(root, out, checkpoint, **more):
    return FeaturesConfig(
        **dict(
            checkpoint=str(checkpoint),
            root=str(root),
            out=str(out),
            frame_stride=1,
            num_workers=0,
            batch_size=1,
            device="cpu",
        )
        | more
    )


def same(a, b):
    for name in (*ARRAYS, "paths"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 8))
def test_shards_cover_every_video_once(counts, batch_size):
    """They follow each other, none is empty, and none has many more clips than sixteen batches."""
    first = np.insert(np.cumsum(counts), 0, 0)
    shards = cut_into_shards(Counted(first), batch_size)
    assert shards[0].start == 0 and shards[-1].stop == len(counts)
    assert all(a.stop == b.start for a, b in zip(shards, shards[1:]))
    for shard in shards:
        assert shard.start < shard.stop
        clips = first[shard.stop] - first[shard.start]
        assert clips < 16 * batch_size + max(counts)


class Counted:
    """As much of `Clips` as `cut_into_shards` looks at."""

    def __init__(self, first):
        self.first = first
        self.videos = range(len(first) - 1)

    def __len__(self):
        return int(self.first[-1])


def test_what_is_written(whole, tmp_path):
    """Arrays, their index, and a vector a video; the second call computes nothing, another
    readout only changes the vectors."""
    net = save(tmp_path / "net", 0)
    sizes = {
        subset: dict(videos=videos, blocks=2, features=64)
        for subset, videos in (("train", 40), ("test", 12))
    }
    assert write_features(job(whole, tmp_path / "out", net)) == sizes
    folder = tmp_path / "out" / "train"
    assert sorted(p.name for p in tmp_path.joinpath("out").glob("[!.]*")) == [
        "origin.json",
        "test",
        "train",
    ]
    rows = (folder / "index.csv").read_text().splitlines()
    assert (
        rows[0] == "row,path,label,class,group"
        and rows[1] == "0,videos/Left/v_Left_g01_c01.mp4,0,Left,g01"
        and len(rows) == 41
    )
    kept = load_features(folder)
    stamp = (folder / "blocks.npy").stat().st_mtime_ns
    assert np.array_equal(np.load(folder / "vectors.npy"), kept.blocks.mean(1))
    write_features(job(whole, tmp_path / "out", net, readout="std"))
    assert (folder / "blocks.npy").stat().st_mtime_ns == stamp and np.array_equal(
        np.load(folder / "vectors.npy"), kept.blocks.std(1)
    )
    assert kept.blocks.dtype == kept.context.dtype == np.float32 and kept.blocks.flags.c_contiguous


def test_several_clips_are_read_out_one_by_one(small, tmp_path):
    net = save(tmp_path / "net", 0)
    write_features(job(small, tmp_path / "one", net))
    write_features(job(small, tmp_path / "three", net, clips_per_video=3))
    one, three = (load_features(tmp_path / name / "train") for name in ("one", "three"))
    assert np.array_equal(one.block_std, one.blocks.std(1)) and not np.allclose(
        three.block_std, three.blocks.std(1)
    )
    assert (
        np.array_equal(three.readout("std"), three.block_std)
        and three.blocks.shape == one.blocks.shape
    )


def test_unlabelled_folder_has_a_training_part_only(tmp_path):
    (tmp_path / "set" / "a" / "deep").mkdir(parents=True)
    for name in ("b", "a/deep/one"):
        write_video(tmp_path / "set" / f"{name}.mp4", drift(2, 1))
    found = write_features(
        job(
            tmp_path / "set",
            tmp_path / "out",
            "random",
            encoder="tiny",
            img_size=32,
            num_blocks=2,
            dataset="folder",
        )
    )
    assert found == {"train": dict(videos=2, blocks=2, features=64)}
    assert [
        row.split(",")[2:4]
        for row in (tmp_path / "out/train/index.csv").read_text().splitlines()[1:]
    ] == [["-1", ""]] * 2


def test_names_that_no_encoding_has(tmp_path):
    """Files may be named by bytes that are no UTF-8, and by commas, quotes and line ends."""
    names = np.array(["a\udcff.mp4", 'with, comma "and" quote.mp4', "two\nlines.mp4"])
    x = np.zeros((3, 2, 4), np.float32)
    save_features(
        tmp_path / "f", Features(x, x[:, 0], np.arange(3), np.array(["", "g", "h"]), names)
    )
    same(
        load_features(tmp_path / "f"),
        Features(x, x[:, 0], np.arange(3), np.array(["", "g", "h"]), names, x.std(1)),
    )


def dying(monkeypatch, at):
    """The job dies at its `at`-th batch."""
    honest, seen = features_module.network_features, []

    def network_features(*args):
        if len(seen) == at:
            raise KeyboardInterrupt
        seen.append(1)
        return honest(*args)

    monkeypatch.setattr(features_module, "network_features", network_features)
    return seen


def test_goes_on_with_the_missing_shards_alone(whole, tmp_path, monkeypatch):
    """40 + 12 batches of one clip: shards of 16, 16, 8 and 12. Killed in the third, then in the
    fourth: 7 + 11 are lost."""
    net = save(tmp_path / "net", 0)
    write_features(job(whole, tmp_path / "peace", net))
    config = job(whole, tmp_path / "out", net)
    for at, done in ((39, 39), (19, 19), (None, 12)):
        with monkeypatch.context() as patch:
            seen = dying(patch, at)
            try:
                write_features(config)
            except KeyboardInterrupt:
                assert at is not None and not (tmp_path / "out" / "train").exists()
            assert len(seen) == done
    for subset in ("train", "test"):
        same(load_features(tmp_path / "out" / subset), load_features(tmp_path / "peace" / subset))


def test_shards_of_another_network_are_not_taken(whole, tmp_path, monkeypatch):
    """Killed, then other weights in the same folder: every batch is computed, and the stale
    parts are gone."""
    net = save(tmp_path / "net", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dying(patch, 39)
        write_features(job(whole, tmp_path / "out", net))
    left = [path.name for path in (tmp_path / "out").glob("shards-*")]
    save(net, 1)
    with monkeypatch.context() as patch:
        seen = dying(patch, None)
        write_features(job(whole, tmp_path / "out", net))
    assert len(left) == 1 and len(seen) == 52 and not list((tmp_path / "out").glob("shards-*"))
    write_features(job(whole, tmp_path / "new", net))
    same(load_features(tmp_path / "out" / "train"), load_features(tmp_path / "new" / "train"))


def fails(capsys, *argv):
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in argv])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("memdpc: ")]
    assert stop.value.code == 2 and len(said) == 1
    return said[0]


def test_mistakes_are_one_line(whole, tmp_path, capsys):
    net = save(tmp_path / "net", 0)
    words = ["features", "--root", whole, "--num_workers", 0, "--device", "cpu"]
    assert "no out" in fails(capsys, *words, "--checkpoint", net)
    assert "no checkpoint" in fails(capsys, *words, "--out", tmp_path / "out")
    assert "colour" in fails(
        capsys, *words, "--checkpoint", net, "--out", tmp_path / "out", "--colour", "red"
    )
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in fails(
        capsys, *words, "--checkpoint", net, "--out", tmp_path / "file"
    )
    config = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps(config | {"mem_size": 9}))
    assert "predictor.slots: shape [8, 64]" in fails(
        capsys, *words, "--checkpoint", net, "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_processes_on_two_disks_are_told(whole, tmp_path, monkeypatch):
    """A process that does not see what the main process has made says so, and computes nothing."""
    net, real = save(tmp_path / "net", 0), features_module.make_accelerator

    def second(device, **more):
        return SimpleNamespace(
            device=real(device).device,
            process_index=1,
            num_processes=2,
            is_main_process=False,
        )

    monkeypatch.setattr(features_module, "make_accelerator", second)
    monkeypatch.setattr(shards_module, "PATIENCE", 0)
    with pytest.raises(TrainingError, match="out must be on a shared disk"):
        write_features(job(whole, tmp_path / "out", net))
    assert not (tmp_path / "out").exists()


def test_a_silent_partner_is_not_waited_for_for_ever(whole, tmp_path, monkeypatch):
    """Of two processes the second is dead: the first says so, and alone it goes on with the
    parts that are missing."""
    net, real, seen = (
        save(tmp_path / "net", 0),
        features_module.make_accelerator,
        dying(monkeypatch, None),
    )

    def first(device, **more):
        return SimpleNamespace(
            device=real(device).device,
            process_index=0,
            num_processes=2,
            is_main_process=True,
        )

    with monkeypatch.context() as patch:
        patch.setattr(features_module, "make_accelerator", first)
        patch.setattr(shards_module, "PATIENCE", 0.1)
        with pytest.raises(TrainingError, match="shards are missing"):
            write_features(job(whole, tmp_path / "out", net))
    done = len(seen)
    write_features(job(whole, tmp_path / "out", net))
    assert 0 < done < 52 == len(seen)


def test_another_kind_of_features_is_refused(small, tmp_path, capsys):
    """`features` into a folder of baselines, and the other way round, one killed at its
    beginning: one line, and nothing is touched."""
    words = [
        "--root",
        small,
        "--num_workers",
        0,
        "--device",
        "cpu",
        "--checkpoint",
        save(tmp_path / "net", 0),
        "--frame_stride",
        1,
    ]
    cli.main(command("retrieve", *words, "--k", 1, "--out", tmp_path / "a"))
    cli.main(command("features", *words, "--out", tmp_path / "b" / "features"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "a network and its baselines, not of one network: name another out" in fails(
        capsys, "features", *words, "--out", tmp_path / "a" / "features"
    )
    assert "one network, not of a network and its baselines: name another out" in fails(
        capsys, "retrieve", *words, "--k", 1, "--out", tmp_path / "b"
    )
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    origin = tmp_path / "b" / "features" / "origin.json"
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"sources": None}))
    fails(capsys, "retrieve", *words, "--k", 1, "--out", tmp_path / "b")
    assert (
        "pretrained"
        not in measured_features(
            RetrieveConfig(
                **vars(
                    job(small, tmp_path / "a", "random", encoder="tiny", img_size=32, num_blocks=2)
                )
            )
        )[0]
    )


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "out, root", [("D", "D/train"), ("D", "E"), ("F", "E"), ("D/train", "D/train"), ("E/b", "E")]
)
def test_videos_in_out_are_not_touched(tmp_path, capsys, out, root):
    """Where a `train` of somebody else's lies, an origin.json beside it or not, features are
    refused; above, in and below a dataset they do no harm."""
    data = tmp_path / "data"
    for name in ("D/train/a", "D/train/b/c", "D/shards-old/a", "E/a", "F/train/a"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(data / f"{name}.mp4", drift(2, 1))
    (data / "F" / "origin.json").write_text(
        json.dumps({"made from": {"kind": "one network"}, "sources": None})
    )
    before = files(data)
    words = [
        "features",
        "--dataset",
        "folder",
        "--root",
        data / root,
        "--out",
        data / out,
        "--num_workers",
        0,
        "--device",
        "cpu",
        *[
            "--checkpoint",
            "random",
            "--encoder",
            "tiny",
            "--img_size",
            "32",
            "--num_blocks",
            "2",
            "--frame_stride",
            "1",
        ],
    ]
    if out in ("D", "F"):
        assert "name another out" in fails(capsys, *words) and files(data) == before
    else:
        cli.main([str(word) for word in words])
        assert (
            before.items() <= files(data).items()
            and (data / out / "train" / "blocks.npy").is_file()
        )


def test_baselines_of_somebody_else_are_not_touched(small, tmp_path):
    mine = tmp_path / "out" / "features" / "random" / "train"
    mine.mkdir(parents=True)
    (mine / "labels.npy").write_text("mine")
    with pytest.raises(ConfigError, match="name another out"):
        measured_features(
            RetrieveConfig(**vars(job(small, tmp_path / "out", save(tmp_path / "net", 0))))
        )
    assert list(files(tmp_path / "out")) == [mine / "labels.npy"]


def test_only_shards_are_removed(small, tmp_path):
    """New weights write over the old arrays, and remove shards by their names alone; what else
    lies there stays."""
    net, out = save(tmp_path / "net", 0), tmp_path / "out"
    write_features(job(small, out, net))
    for name in ("shards-of-a-film", f"shards-{'0' * 16}", "notes"):
        (out / name / "x").mkdir(parents=True)
    save(net, 1)
    write_features(job(small, out, net))
    assert sorted(path.name for path in out.glob("[!.]*")) == [
        "notes",
        "origin.json",
        "shards-of-a-film",
        "test",
        "train",
    ]
    write_features(job(small, tmp_path / "new", net))
    same(load_features(out / "train"), load_features(tmp_path / "new" / "train"))


HOLDER = """
import sys, time
from pathlib import Path

from memdpc.base.files import hold_folder

held = hold_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_two_jobs_in_one_folder(small, tmp_path, monkeypatch):
    """Where another process is at work a job is refused before it touches anything; whole
    features are read all the same."""
    net, out = save(tmp_path / "net", 0), tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dying(patch, 0)
        write_features(job(small, out, net))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        before = files(out)
        with pytest.raises(ConfigError, match="another process is at work"):
            write_features(job(small, out, net))
        assert files(out) == before and list(out.glob("shards-*"))
    finally:
        holder.kill(), holder.communicate()
    sizes = write_features(job(small, out, net))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE)
    try:
        assert (
            holder.stdout.readline() == b"held\n" and write_features(job(small, out, net)) == sizes
        )
    finally:
        holder.kill(), holder.communicate()


def test_one_process_waits_for_nobody(small, tmp_path, monkeypatch):
    """Shards that this process wrote, and that are gone, come from nobody else: at once a line."""
    monkeypatch.setattr(shards_module.Store, "compute", lambda *args: None)
    began = time.monotonic()
    with pytest.raises(TrainingError, match="shards are missing"):
        write_features(job(small, tmp_path / "out", save(tmp_path / "net", 0)))
    assert time.monotonic() - began < 30


def test_damaged_features(small, tmp_path):
    """Each damage is a line that names the folder to remove; once it is removed, or gone by
    itself, the features are computed again."""
    config, folder = (
        job(small, tmp_path / "out", save(tmp_path / "net", 0)),
        tmp_path / "out" / "train",
    )
    write_features(config)
    wanted = load_features(folder)
    long = (folder / "index.csv").read_text()

    def cut_short(name, size):
        return lambda: os.truncate(folder / name, size)

    for harm in (
        cut_short("blocks.npy", 0),
        cut_short("blocks.npy", 5),
        cut_short("blocks.npy", 200),
        cut_short("index.csv", 0),
        (folder / "labels.npy").unlink,
        lambda: np.save(folder / "labels.npy", np.zeros(3, int)),
        lambda: np.save(folder / "groups.npy", 7),
        (folder / "index.csv").unlink,
        lambda: (folder / "context.npy").write_bytes(b"PK\x03\x04" * 9),
        lambda: (folder / "index.csv").write_text(long + "9,a,0,b,c\n"),
    ):
        harm()
        with pytest.raises(TrainingError) as error:
            write_features(config)
        assert (
            str(error.value).startswith(f"{folder}: cannot be read (")
            and "\n" not in str(error.value)
            and "remove this folder" in str(error.value)
        )
        shutil.rmtree(folder)
        write_features(config)
        same(load_features(folder), wanted)


def test_damaged_origin(small, tmp_path):
    """Cut short it says nothing, and all is computed again; what is no origin of features may
    be somebody's."""
    config, origin = (
        job(small, tmp_path / "out", save(tmp_path / "net", 0)),
        tmp_path / "out" / "origin.json",
    )
    write_features(config)
    whole, wanted = origin.read_text(), files(tmp_path / "out")
    for text in ("", whole[:40]):
        origin.write_text(text)
        write_features(config)
        assert files(tmp_path / "out") == wanted
    for text in (
        "[1]",
        "null",
        '{"made from": 3}',
        "{}",
        whole.replace('[""]', "7"),
        whole.replace('[""]', "[7]"),
        '{"made from": {"kind": 3}, "sources": null}',
        "[" * 200_000,
    ):
        origin.write_text(text)
        with pytest.raises(ConfigError, match="origin.json is damaged"):
            write_features(config)
        assert origin.read_text() == text
    origin.unlink()
    os.mkfifo(origin)  # is not waited for
    with pytest.raises(ConfigError, match="origin.json is damaged"):
        write_features(config)


def test_a_full_disk_is_a_line(small, tmp_path, monkeypatch):
    """NumPy's error of a full disk has neither number nor name."""

    def full(*args, **more):
        raise OSError("64 requested and 0 written")

    config = job(small, tmp_path / "out", save(tmp_path / "net", 0))
    monkeypatch.setattr(arrays_module.np, "save", full)
    with pytest.raises(
        TrainingError,
        match=r"out.*cannot be written \(64 requested and 0 written; .* MB are free\)",
    ):
        write_features(config)
    monkeypatch.undo()
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    write_features(config)


def test_no_such_readout():
    x = np.zeros((3, 2, 4), np.float32)
    with pytest.raises(ValueError, match="no readout 'max': choose mean, std or context"):
        Features(x, x[:, 0], np.arange(3), np.arange(3)).readout("max")


@pytest.mark.parametrize("text", ["null", "[1]", '"a"', '{"frame'])
def test_a_damaged_config_of_a_run(tmp_path, text):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json: damaged"):
        run_config(str(tmp_path))


def test_the_run_of_a_checkpoint_does_not_depend_on_where_one_stands(tmp_path, monkeypatch):
    step = tmp_path / "run" / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"frame_stride": 7}')
    for place, checkpoint in (
        (tmp_path, "run"),
        (tmp_path / "run", "."),
        (step.parent, step.name),
        (step, "."),
        (tmp_path, step),
    ):
        monkeypatch.chdir(place)
        assert run_config(str(checkpoint)) == {"frame_stride": 7}
    monkeypatch.chdir(tmp_path / "run")
    assert run_config("random") == {}


def test_fresh_weights_leave_the_dice_alone_and_saved_ones_keep_their_sizes(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other = (
        load_model("random", 1, encoder="tiny", img_size=32).state_dict() for _ in range(2)
    )
    assert torch.equal(torch.rand(3), expected) and all(
        map(torch.equal, one.values(), other.values())
    )
    with pytest.raises(ConfigError, match="img_size"):
        load_model(save(tmp_path / "net", 0), img_size=64)


# ---- real processes, real signals


def command(*words):
    return [str(word) for word in words]


def words_for(root, out, net, batch_size=1):
    return [
        "features",
        "--checkpoint",
        net,
        "--root",
        root,
        "--out",
        out,
        "--frame_stride",
        1,
        "--num_workers",
        0,
        "--batch_size",
        batch_size,
        "--device",
        "cpu",
    ]


@pytest.mark.slow
def test_two_processes_give_the_same_bits(whole, tmp_path):
    """Through torchrun: features of one network, and retrieval with all baselines."""
    net = save(tmp_path / "net", 0)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "memdpc",
    ]
    write_features(job(whole, tmp_path / "one", net))
    done = subprocess.run(
        command(*torchrun, *words_for(whole, tmp_path / "two", net)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train\n") == 1
    for subset in ("train", "test"):
        same(load_features(tmp_path / "two" / subset), load_features(tmp_path / "one" / subset))
    words = ["retrieve", *words_for(whole, tmp_path / "both", net)[1:]]
    done = subprocess.run(command(*torchrun, *words), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    config = RetrieveConfig(**vars(job(whole, tmp_path / "alone", net)))
    alone = retrieve(config)
    assert (
        json.loads((tmp_path / "both" / "metrics.json").read_text())["retrieval"]
        == alone["retrieval"]
    )
    for name, pair in measured_features(config)[0].items():
        for subset, features in zip(("train", "test"), pair):
            same(load_features(tmp_path / "both" / "features" / name / subset), features)


@pytest.mark.slow
def test_kill_9(whole, tmp_path):
    """Killed as soon as a shard is there, three times; a shard that was whole is taken as it is
    (one is marked to show it)."""
    net, out = save(tmp_path / "net", 0), tmp_path / "out"
    write_features(job(whole, tmp_path / "peace", net))
    marked = None
    for _ in range(3):
        had = len(list(out.glob("shards-*/*/0*")))
        process = subprocess.Popen(
            command(sys.executable, "-m", "memdpc", *words_for(whole, out, net)),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(list(out.glob("shards-*/*/0*"))) == had and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "train" / "vectors.npy").exists()
        if marked is None:
            marked = min(out.glob("shards-*/train/0*"))
            np.save(marked / "groups.npy", np.full(16, "marked"))
    done = subprocess.run(
        command(sys.executable, "-m", "memdpc", *words_for(whole, out, net)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for subset in ("train", "test"):
        found, wanted = (load_features(tmp_path / name / subset) for name in ("out", "peace"))
        if subset == "train":
            assert (found.groups[:16] == "marked").all()
            found.groups = np.concatenate([wanted.groups[:16], found.groups[16:]])
        same(found, wanted)


def released(path, **sizes):
    """A released checkpoint's likeness from random weights: names, the doubled GRU weights,
    numpy's old module name."""
    names = [
        ("forward_gru.", ("agg_f.cell_list.0.", "agg_f.ConvGRUCell_00.")),
        ("backward_gru.", ("agg_b.cell_list.0.", "agg_b.ConvGRUCell_00.")),
        ("encoder.", ("backbone.",)),
        ("predictor.phi.", ("network_pred.",)),
        ("predictor.slots", ("mb",)),
    ]
    torch.manual_seed(0)
    entries = {}
    for name, value in MemDPC(**sizes).state_dict().items():
        ours, theirs = next(pair for pair in names if name.startswith(pair[0]))
        entries |= {"module." + their + name[len(ours) :]: value for their in theirs}
    torch.save(
        {
            "epoch": 200,
            "state_dict": entries,
            "best_acc": np.float64(0.25),
            "optimizer": {},
            "iteration": 100,
        },
        path,
        _use_new_zipfile_serialization=False,
    )
    path.write_bytes(
        path.read_bytes().replace(
            b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.multiarray\nscalar\n"
        )
    )
    return path


@pytest.mark.slow
def test_released_kinetics_checkpoint_to_features_and_retrieval(whole, tmp_path):
    """A ResNet-34 with 1024 slots, as the Kinetics-400 weights: one command each, nothing
    between. (Small pictures, to be quick.)"""
    path = released(tmp_path / "k400.pth.tar", encoder="resnet34", mem_size=1024)
    small = [
        "--root",
        whole,
        "--img_size",
        64,
        "--num_blocks",
        4,
        "--num_workers",
        0,
        "--device",
        "cpu",
        "--checkpoint",
        path,
    ]
    cli.main(command("features", *small, "--out", tmp_path / "features"))
    assert np.load(tmp_path / "features" / "test" / "vectors.npy").shape == (12, 256)
    cli.main(command("retrieve", *small, "--out", tmp_path / "found"))
    table = json.loads((tmp_path / "found" / "metrics.json").read_text())["retrieval"]
    assert (
        table["mean image"]["R@1"] == 1
        and 0 <= table["pretrained"]["R@1"] <= table["pretrained"]["R@20"] <= 1
    )
