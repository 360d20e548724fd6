"""Configs: what fields take from a shell, from papermill and from Python; their presets."""

import json
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from memdpc.base import config as configs
from memdpc.base.config import (
    CLASSIFY_PRESETS,
    PAPER,
    PRETRAIN_PRESETS,
    JobConfig,
    OopsConfig,
    PretrainConfig,
    ShapesConfig,
    config_differences,
    config_from,
    notebook_parameters,
    parse,
    save_config,
    settings_of,
)
from memdpc.base.errors import ConfigError

JOBS = [
    kind
    for kind in vars(configs).values()
    if isinstance(kind, type) and issubclass(kind, JobConfig) and kind is not JobConfig
]
each_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)


def complaint(function, *args, **more):
    """The one line of a ConfigError."""
    with pytest.raises(ConfigError) as error:
        function(*args, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- all configs


@each_job
def test_frozen_with_defaults_that_a_json_file_keeps(job):
    config = job()
    with pytest.raises(FrozenInstanceError):
        config.out = "elsewhere"
    saved = json.loads(json.dumps(asdict(config)))
    assert job(**saved) == config  # lists become tuples again


@each_job
def test_every_number_has_a_range(job):
    """2026-11: `-3` is a whole number, and not a number of epochs."""
    for name, setting in settings_of(job).items():
        if setting.kind in (int, float):
            assert setting.range is not None, name
            assert setting.range.low < setting.range.high


@each_job
def test_every_field_has_its_help(job, capsys):
    """2026-11: a field whose comment had slipped to another line, and a command without a word."""
    with pytest.raises(SystemExit) as stop:
        parse(job(), ["--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out.replace("│", " ")
    entries = " ".join(shown.split()).split("--")
    for field in fields(job):
        # The usage line may name the fields as well.
        entry = [text for text in entries if text.split()[:1] == [field.name]][-1]
        assert len(entry.partition("(default:")[0].split()) > 3, entry


def test_the_jobs_that_use_names_take_plugins():
    for job in JOBS:
        names = {field.name for field in fields(job)}
        assert ("plugin" in names) == bool(names & {"dataset", "encoder"}), job


# ---- reading values


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("epochs", "3", 3),
        ("epochs", np.int64(3), 3),
        ("lr", "1e-2", 0.01),
        ("lr", 1, 1.0),
        ("lr", np.float32(0.5), 0.5),
        ("root", Path("a b"), "a b"),
        ("root", 2020, "2020"),
        ("root", "1,2", "1,2"),
        ("resume", "true", True),
        ("resume", "False", False),
        ("resume", [], True),
        ("time_stride", "none", None),
        ("time_stride", None, None),
        ("time_stride", ["0.5"], 0.5),
        ("milestones", [1, 2], (1, 2)),
        ("milestones", ["1", "2"], (1, 2)),
        ("milestones", "[1, 2]", (1, 2)),
        ("milestones", "(1,)", (1,)),
        ("milestones", "1 2", (1, 2)),
        ("milestones", 3, (3,)),
        ("milestones", "", ()),
        ("plugin", "a,b", ("a", "b")),
        ("plugin", "['a', 'b']", ("a", "b")),
        ("plugin", ["a", "b"], ("a", "b")),
        ("plugin", ["a,b"], ("a", "b")),
    ],
)
def test_values_are_read_as_their_field_says(name, value, expected):
    found = getattr(PretrainConfig(**{name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("epochs", "three", "epochs must be a whole number, got three"),
        ("epochs", 1.5, "epochs must be a whole number, got 1.5"),
        ("epochs", True, "epochs must be a whole number, got True"),
        ("epochs", [], "epochs needs a value"),
        ("epochs", ["1", "2"], "epochs takes one value, got 1 2"),
        ("epochs", None, "epochs must be a whole number, got None"),
        ("lr", "nan", "lr must lie in 0..100, got nan"),
        ("lr", -1, "lr must lie in 0..100, got -1.0"),
        ("lr", "much", "lr must be a number, got much"),
        ("resume", "perhaps", "resume must be True or False, got perhaps"),
        ("resume", 1, "resume must be True or False, got 1"),
        ("root", ["a", "b"], "root takes one value, got a b"),
        ("root", None, "root must be a path, got None"),
        ("precision", "fp8", "precision must be one of auto, no, bf16, got fp8"),
        ("milestones", "soon", "milestones must be a whole number, got soon"),
        ("milestones", "[1, 0]", "milestones must lie in 1..1000000, got 0"),
        ("pred_steps", 8, "pred_steps must be less than num_blocks, got 8 of 8 blocks"),
    ],
)
def test_wrong_values_are_named(name, value, expected):
    assert complaint(PretrainConfig, **{name: value}) == expected
    assert complaint(replace, PAPER, **{name: value}) == expected


def test_oops_needs_held_out_videos():
    assert "held-out" in complaint(OopsConfig, val_fraction=0)


# ---- a command line


def test_a_command_line():
    words = "--epochs 3 --bidirectional False --milestones 1 2 --resume --time-stride=.5"
    config = parse(PAPER, words.split())
    assert (config.epochs, config.bidirectional, config.milestones) == (3, False, (1, 2))
    assert (config.resume, config.time_stride) == (True, 0.5)
    assert config == replace(
        PAPER, epochs=3, bidirectional=False, milestones=(1, 2), resume=True, time_stride=0.5
    )


@pytest.mark.parametrize("words", [[], ["--resume", "True"], ["--resume", "true"], ["--resume"]])
def test_a_flag_may_stand_alone(words):
    assert parse(PAPER, words).resume == bool(words)
    assert parse(PAPER, [*words, "--seed", "1"]) == replace(PAPER, resume=bool(words), seed=1)


@pytest.mark.parametrize(
    "words, expected",
    [
        ("--epoch 3", "'--epoch' is not a parameter of this job: did you mean epochs?"),
        ("--epochs three", "epochs must be a whole number, got three"),
        ("--lr -1", "lr must lie in 0..100, got -1.0"),
        ("--lr", "lr needs a value"),
        ("--seed=-1", "seed must lie in 0..2147483647, got -1"),
        ("--zzz", "'--zzz' is not a parameter of this job: choose among accept_changed_data, "),
        ("stray", "'stray' is not a parameter of this job: choose among accept_changed_data, "),
        ("--root a b", "root takes one value, got a b"),
    ],
)
def test_a_wrong_command_line_is_one_line(words, expected):
    assert complaint(parse, PAPER, words.split()).startswith(expected)


def test_a_preset_keeps_what_is_not_named():
    demo = CLASSIFY_PRESETS["demo-linear"]
    assert parse(demo, []) == demo
    assert parse(demo, ["--milestones", "None"]) == replace(demo, milestones=None)
    assert parse(demo, ["--crops", "5"]).crops == 5


# ---- a notebook


def test_a_notebooks_parameters():
    """What papermill injects under a wrong name is among them; what is not plain is not."""
    variables = {"preset": "demo", "epoch": 3, "_private": 1, "In": [], "pytest": pytest}
    found = notebook_parameters(variables)
    assert found == {"preset": "demo", "epoch": 3}
    text = complaint(config_from, PRETRAIN_PRESETS, found)
    assert text == "'epoch' is not a parameter of this job: did you mean epochs?"


OWN = "# Parameters: change them\npreset = 'demo'\nepochs = None\n"


def cell(source, variables, history):
    """Run a cell as IPython does; its source is in `In` before it runs."""
    history.append(source)
    exec(source, variables)


def test_a_notebooks_parameters_are_what_its_cells_set():
    """2026-11: in the second round in a kernel, variables of later cells were parameters."""
    history = [""]
    variables = {"In": history, "mine": 3, "lr": "of a cell before"}
    for value in (None, 5):
        cell(OWN.replace("None", str(value)), variables, history)
        cell("trial, row = 1, 'x'\nfor seed in range(3): pass", variables, history)
        assert notebook_parameters(variables) == {"preset": "demo", "epochs": value}


def test_papermills_cell_is_read_and_a_later_one_of_the_notebook_wins():
    history = [""]
    variables = {"In": history}
    cell(OWN, variables, history)
    cell("# Parameters\nepochs = 2\n_typo = 3\n", variables, history)
    found = notebook_parameters(variables)
    assert found == {"preset": "demo", "epochs": 2, "_typo": 3}
    assert "'_typo' is not a parameter" in complaint(config_from, PRETRAIN_PRESETS, found)
    cell(OWN + "root = Path('x')", variables | {"Path": Path}, history)
    variables["root"] = Path("x")
    found = notebook_parameters(variables)
    assert "_typo" not in found
    assert found["root"] == Path("x")


def test_a_notebook_without_the_first_line_goes_by_its_variables():
    variables = {"In": ["", "epochs = 2"], "epochs": 2, "Path": Path}
    assert notebook_parameters(variables) == {"epochs": 2}


def test_a_notebooks_config_is_its_preset_changed():
    given = {"preset": "demo", "epochs": "2", "bidirectional": "false", "milestones": "[1, 2]"}
    config = config_from(PRETRAIN_PRESETS, given | {"lr": None})
    demo = PRETRAIN_PRESETS["demo"]
    assert config == replace(demo, epochs=2, bidirectional=False, milestones=(1, 2))
    assert config_from(PRETRAIN_PRESETS, {}) == demo  # the first
    assert config_from({"default": ShapesConfig()}, {"seed": "7"}) == ShapesConfig(seed=7)


def test_a_wrong_preset_is_told_the_right_ones():
    text = complaint(config_from, PRETRAIN_PRESETS, {"preset": "big"})
    assert text == "no preset 'big': choose one of demo, paper-ucf101, paper-kinetics400"


# ---- a run's config.json


def test_differences_from_a_saved_config(tmp_path):
    """Where a run writes and what it keeps, where it computes and how many decode may differ."""
    path = tmp_path / "config.json"
    save_config(PAPER, path)
    free = replace(
        PAPER, num_workers=8, resume=True, out="there", device="cpu", keep_checkpoints=True
    )
    assert config_differences(free, path) == []
    changed = replace(PAPER, lr=0.1, milestones=(3,))
    assert config_differences(changed, path) == ["lr: 0.001 -> 0.1", "milestones: [] -> [3]"]


def test_a_field_that_is_younger_than_the_run_counts_as_its_default(tmp_path):
    """2026-11: a run of an older version, which could not be continued for a field it lacked."""
    path = tmp_path / "config.json"
    old = asdict(PAPER)
    del old["time_stride"], old["predictor"], old["plugin"]
    path.write_text(json.dumps(old))
    assert config_differences(PAPER, path) == []
    other = replace(PAPER, predictor="direct")
    assert config_differences(other, path) == ["predictor: memory -> direct"]


def test_a_damaged_config_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[")
    assert complaint(config_differences, PAPER, path) == f"{path}: damaged; choose another out"


@pytest.mark.parametrize("name", ["root", "out"])
def test_a_tilde_in_a_path_is_the_home_folder(name, monkeypatch, tmp_path):
    """2026-11: `--out='~/run'`, and a notebook's `out = "~/run"`, made a folder named `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    found = [
        PretrainConfig(**{name: "~/run"}),
        PretrainConfig(**{name: Path("~/run")}),
        parse(PretrainConfig(), [f"--{name}=~/run"]),
        parse(PretrainConfig(), [f"--{name}", "~/run"]),
        config_from(PRETRAIN_PRESETS | {"demo": PretrainConfig()}, {name: "~/run"}),
    ]
    assert {Path(getattr(config, name)) for config in found} == {tmp_path / "run"}
    with pytest.raises(ConfigError, match="must be a path"):
        PretrainConfig(**{name: "a\0b"})
