"""A run's files with anything in them: a line that says so, or a run that trains to its end."""

import csv
import errno
import io
import itertools
import json
import os
import shutil
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_job import STEPS, at_step, toy

from memdpc.base.errors import CheckpointError, MemdpcError, Stopped, TrainingError
from memdpc.base.files import checkpoints_in
from memdpc.method import weights
from memdpc.method.weights import read_pickle, read_tensors
from memdpc.training.changes import video_changes
from memdpc.training.folder import (
    read_metrics,
    read_results,
    read_state,
    readable,
)

pytestmark = pytest.mark.trains

LAST = f"checkpoints/step-{STEPS - 1:08d}"
JSON_FILES = ("config.json", "metrics.json", f"{LAST}/state.json")
FILES = (*JSON_FILES, "metrics.csv", f"{LAST}/optimizer.pt", f"{LAST}/model.safetensors")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped a step before its end, and what was measured with it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.raises(Stopped):
        toy(folder, compute=at_step(STEPS - 1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    (folder / "metrics.json").write_text(json.dumps({"probe": {"pretrained": 0.5}, "seed": 0}))
    return folder


numbers = itertools.count()


def goes_on_or_says_why(stopped, name, content):
    """The run with other content in one of its files: it ends by a line, or at its last step."""
    folder = stopped.parent / str(next(numbers))
    shutil.copytree(stopped, folder)
    (folder / name).write_bytes(content)
    try:
        toy(folder, resume=True)
    except MemdpcError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 3000
    else:
        assert checkpoints_in(folder)[-1].name == f"step-{STEPS:08d}"
    finally:
        shutil.rmtree(folder)


# Values as JSON knows them, and as runs have them.
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 10**9, 10**400, STEPS, STEPS - 1])
    | st.floats()
    | st.text(max_size=5)
)
values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4
)


def changed_somewhere(draw, value):
    """The value with one thing in it, at any depth, gone, or replaced by anything."""
    if isinstance(value, (dict, list)) and value and draw(st.booleans()):
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        place = draw(st.sampled_from(places))
        copy = value.copy()
        if draw(st.integers(0, 4)):
            copy[place] = changed_somewhere(draw, value[place])
        else:
            del copy[place]
        return copy
    return draw(values)


def damage(content, draw):
    """Content that was cut, or in which bits turned, or any other."""
    kind = draw(st.sampled_from(["cut", "turned", "other"]))
    if kind == "other":
        return draw(st.binary(max_size=300))
    place = draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        return content[:place]
    turned = bytearray(content)
    turned[place] ^= draw(st.integers(1, 255))
    return bytes(turned)


def check_bytes(stopped, data):
    name = data.draw(st.sampled_from(FILES))
    goes_on_or_says_why(stopped, name, damage((stopped / name).read_bytes(), data.draw))


def check_json(stopped, data):
    name = data.draw(st.sampled_from(JSON_FILES))
    changed = changed_somewhere(data.draw, json.loads((stopped / name).read_bytes()))
    goes_on_or_says_why(stopped, name, json.dumps(changed).encode())


def check_table(stopped, data):
    text = (stopped / "metrics.csv").read_text()
    rows = list(csv.reader(io.StringIO(text)))
    row = data.draw(st.sampled_from(rows))
    row[data.draw(st.integers(0, 4))] = data.draw(st.text(max_size=8) | st.integers().map(str))
    row += data.draw(st.lists(st.text(max_size=3), max_size=2))
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    content = out.getvalue().encode("utf-8", "surrogatepass")
    goes_on_or_says_why(stopped, "metrics.csv", content)


def tensor_from(draw):
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    kinds = [torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64, torch.bfloat16]
    kind = draw(st.sampled_from(kinds))
    value = torch.full(shape, draw(st.sampled_from([0, 1, -1, 1e30, float("nan")]))).to(kind)
    return (
        torch.zeros(()).to(kind).expand(shape)
        if draw(st.booleans())
        else value[..., None].squeeze(-1)
    )


def check_optimizer(stopped, data):
    saved = torch.load(stopped / LAST / "optimizer.pt", weights_only=True)
    paths = [["state"], ["param_groups"], ["state", 0], ["param_groups", 0], []]
    paths += [["state", 1, name] for name in saved["state"][1]]
    paths += [["param_groups", 0, name] for name in saved["param_groups"][0]]
    *above, last = [None, *data.draw(st.sampled_from(paths))]
    holder = {None: saved}
    place = holder
    for name in above:
        place = place[name]
    if last in ("state", "param_groups") or data.draw(st.integers(0, 3)) or last is None:
        tensors = st.composite(lambda draw: tensor_from(draw))()
        place[last] = data.draw(plain | tensors | values)
    else:
        del place[last]
    out = io.BytesIO()
    torch.save(holder[None], out)
    goes_on_or_says_why(stopped, f"{LAST}/optimizer.pt", out.getvalue())


CHECKS = [check_bytes, check_json, check_table, check_optimizer]


@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=8)
@given(st.data())
def test_any_content_is_a_line_or_trains(stopped, check, data):
    """2026-11: tracebacks; and a run of step 10**9 that finished without training."""
    check(stopped, data)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=500)
@given(st.data())
def test_any_content_is_a_line_or_trains_at_length(stopped, check, data):
    check(stopped, data)


@settings(max_examples=50)
@given(content=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_a_fingerprint_with_anything_in_it(stopped, content):
    file = stopped.parent / "videos.jsonl"
    file.write_bytes(content)
    try:
        assert video_changes(file, b'["training", "a", 1, 2, 0]\n')
    except TrainingError as error:
        assert "damaged; without this file the run can go on" in str(error)


WRONG = {
    "step": [10**9, "4", -5, 0, True, None, 4.0],
    "best": ["x", [1], [1, "x"], [0, 1.0], [1, float("nan")], [999, 1.0], {}],
    "seconds": ["x", -1, float("inf"), float("nan"), None, 10**400],
    "values": [None, [], {"loss": "x"}],
    "processes": [0, "1", None],
    "total_steps": [0, "x", None],
    "arithmetic": [None, [], {}, {"threads": "x"}, {"threads": 0}],
    "dropped": [-1, "x"],
}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, many in WRONG.items() for value in many]
)
def test_a_state_that_no_run_wrote(stopped, tmp_path, name, value):
    checkpoint = tmp_path / LAST
    shutil.copytree(stopped / LAST, checkpoint)
    file = checkpoint / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(TrainingError, match=rf"{LAST}: damaged \({name} is .*will begin anew"):
        read_state(checkpoint)


@pytest.mark.parametrize("name", ["metrics.csv", "metrics.json", f"{LAST}/state.json"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_refused_and_not_waited_for(stopped, tmp_path, name):
    """2026-11: a run that waited for ever for somebody to write into its state.json."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(TrainingError, match="damaged"):
        toy(folder, resume=True)


def test_a_metrics_table_that_no_run_wrote(tmp_path):
    """2026-11: columns too many, and a step of ten thousand digits, were tracebacks."""
    head = "step,epoch,split,name,value\n"
    for row in ("1,0,train,loss,1,9,9", "1,0,train,loss", "9" * 10_000 + ",0,a,b,1", "1,0,a,b,x"):
        (tmp_path / "metrics.csv").write_text(f"{head}{row}\n")
        with pytest.raises(TrainingError, match="damaged; without this file the run can go on"):
            read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_text(f'{head}1,0,train,"a\x0bname, with more",1\n')
    assert read_metrics(tmp_path)[0]["name"] == "a\x0bname, with more"


@pytest.mark.parametrize("steps", ["x", 0, True, None, [1]])
def test_a_run_is_not_finished_by_anything(tmp_path, steps):
    (tmp_path / "metrics.json").write_text(json.dumps({"steps": steps}))
    with pytest.raises(TrainingError, match="damaged; remove it"):
        read_results(tmp_path)


def test_copies_beside_checkpoints_are_not_checkpoints(tmp_path):
    """2026-11: `step-00000004.bak` was the last checkpoint, and was removed as no longer needed."""
    for name in ("step-00000004", "step-00000004.bak", "step-x", "step-100000000", "step-99999999"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000007").write_text("a file")
    found = [path.name for path in checkpoints_in(tmp_path)]
    assert found == ["step-00000004", "step-99999999", "step-100000000"]


def test_a_place_that_may_not_be_read_is_not_damaged(tmp_path):
    """2026-11: the advice was to remove a checkpoint that the user's rights did not reach."""
    with pytest.raises(PermissionError), readable(tmp_path):
        raise PermissionError(13, "Permission denied", "optimizer.pt")


@pytest.mark.parametrize("read, name", [(read_tensors, "a.safetensors"), (read_pickle, "a.pt")])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_weights_that_the_machine_cannot_read_are_not_damaged(
    tmp_path, monkeypatch, read, name, number
):
    (tmp_path / name).write_bytes(bytes(99))

    def fail(*args, **more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(weights, "open", fail, raising=False)
    wanted = rf"{name}: cannot be read \({os.strerror(number)}\)$"
    with pytest.raises(CheckpointError, match=wanted), readable(tmp_path):
        read(tmp_path / name)
