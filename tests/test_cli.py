"""The command line as a shell sees it, and the configs behind it as papermill fills them."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from papermill.cli import _resolve_type

from memdpc.base.config import PAPER, PRETRAIN_PRESETS, PretrainConfig, config_from, parse
from memdpc.base.errors import ConfigError
from memdpc.cli import COMMANDS
from memdpc.data.video import write_video

# A valid value of each field that is not its default, as one would write it behind `-p NAME`.
OTHER = dict(
    dataset="folder",
    root="some where",
    out="there",
    split="2",
    encoder="resnet50",
    img_size="64",
    num_blocks="9",
    block_len="4",
    frame_stride="2",
    time_stride="0.1",
    pred_steps="2",
    mem_size="0",
    bidirectional="false",
    dropout="0.2",
    address_gain="8",
    batch_size="4",
    epochs="7",
    max_steps="11",
    lr="0.01",
    weight_decay="0",
    milestones="[1, 2]",
    warmup_steps="3",
    cosine="True",
    min_area="1",
    flip="0",
    jitter="0",
    val_fraction="0.2",
    val_every="2",
    log_every="1",
    checkpoint_every="9",
    keep_checkpoints="true",
    seed="5",
    num_workers="0",
    device="cpu",
    precision="no",
    resume="true",
)


def memdpc(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "memdpc", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )


def assert_refused(done, *wanted):
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("memdpc: "), done.stderr
    assert "Traceback" not in done.stderr
    for text in wanted:
        assert text in lines[-1], lines[-1]


@pytest.mark.parametrize("name", [field.name for field in fields(PretrainConfig)])
def test_every_field_as_papermill_injects_it(name):
    "Through papermill's own reading of a command line's value."
    config = config_from({"paper": PAPER}, {name: _resolve_type(OTHER[name])})
    assert getattr(config, name) != getattr(PAPER, name)
    assert config == replace(PAPER, **{name: getattr(config, name)})
    assert config == config_from(
        {"paper": PAPER}, {name: getattr(config, name)}
    )  # and as a Python value
    value = getattr(config, name)
    assert config == parse(
        PAPER, [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    )
    assert config == parse(
        PAPER,
        [
            f"--{name.replace('_', '-')}",
            *(map(str, value) if isinstance(value, tuple) else [str(value)]),
        ],
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 1.5},
        {"epochs": "many"},
        {"epochs": True},
        {"bidirectional": 3},
        {"milestones": "soon"},
        {"encoder": "vgg"},
        {"epoch": 3},
        {"preset": "none such"},
        {"lr": "nan"},
        {"seed": -1},
        {"img_size": 10**9},
        {"mem_size": -5},
    ],
)
def test_wrong_values_are_one_line(wrong):
    with pytest.raises(ConfigError) as error:
        config_from(PRETRAIN_PRESETS, wrong)
    assert "\n" not in str(error.value) and len(str(error.value)) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_without_torch(command):
    code = f"""
import sys
from memdpc.cli import main
try: main(['{command}', '--help'])
except SystemExit as stop: assert not stop.code
assert 'torch' not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


@pytest.fixture
def bad_files(tmp_path):
    "A folder with one file of each kind that is no video."
    folder = tmp_path / "bad" / "Action"
    folder.mkdir(parents=True)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.avi").write_text("not a video\n" * 100)
    write_video(
        tmp_path / "whole.mp4",
        np.random.default_rng(0).integers(0, 255, (30, 48, 48, 3), dtype=np.uint8),
    )
    (folder / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:400])
    return folder.parent


def test_users_mistakes(tmp_path, bad_files):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(
        memdpc("pretrain", "--root", tmp_path / "nowhere", "--out", tmp_path / "run"),
        "nowhere",
        "no such folder",
    )
    assert_refused(
        memdpc("pretrain", "--root", empty, "--out", tmp_path / "run"), "no folder videos"
    )
    assert_refused(
        memdpc("pretrain", "--dataset", "folder", "--root", empty, "--out", tmp_path / "run"),
        "no video files",
    )
    assert_refused(
        memdpc("pretrain", "--dataset", "folder", "--root", bad_files, "--out", tmp_path / "run"),
        "none of the 3 videos",
    )
    assert_refused(memdpc("pretrain", "--root", empty), "out")
    assert_refused(memdpc("pretrain", "--batch_size", "0"), "batch_size")
    assert_refused(
        memdpc(
            "retrieve",
            "--checkpoint",
            tmp_path / "nowhere",
            "--root",
            empty,
            "--out",
            tmp_path / "r",
        ),
        "no checkpoint",
    )
    assert_refused(
        memdpc("shapes", "--out", tmp_path / "s", "--videos_per_class", "-3"), "videos_per_class"
    )
    assert_refused(memdpc("dance"), "no command")
    assert not list(empty.iterdir())


def test_one_bad_video_among_many_is_skipped_and_listed(tmp_path, bad_files):
    rng = np.random.default_rng(0)
    for i in range(4):
        write_video(
            bad_files / "Action" / f"good{i}.mp4",
            rng.integers(0, 255, (12, 48, 48, 3), dtype=np.uint8),
        )
    write_video(
        bad_files / "Action" / "single.mp4", rng.integers(0, 255, (1, 48, 48, 3), dtype=np.uint8)
    )
    sizes = "--num_blocks 3 --block_len 2 --pred_steps 1 --mem_size 8 --batch_size 2 --max_steps 1 --val_fraction 0 --num_workers 0 --device cpu"
    done = memdpc(
        "pretrain",
        "--preset",
        "demo",
        "--dataset",
        "folder",
        "--root",
        bad_files,
        "--out",
        tmp_path / "run",
        *sizes.split(),
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["videos"], metrics["skipped"], metrics["steps"]) == (5, 3, 1)
    for name in ("empty.mp4", "text.avi", "cut.mp4"):
        assert f"left out: Action/{name}: " in done.stderr
    assert "1 shorter than a clip" in done.stderr


def test_a_reader_that_leaves_is_no_mistake():
    """`memdpc --help | true`: the pipe is closed before a word is written."""
    program = subprocess.Popen(
        [sys.executable, "-m", "memdpc", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    program.stdout.close()
    assert (program.stderr.read(), program.wait()) == (b"", 0)
