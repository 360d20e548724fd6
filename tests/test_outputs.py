"""What jobs write: every job asks for its `out` before it works, and none writes halves."""

import json
import subprocess
import sys
import textwrap

import pytest

from memdpc.cli import COMMANDS, main
from memdpc.training.run import add_results

# A command, what else it needs to begin, and a file that it writes in `out`. Neither datasets nor
# checkpoints nor videos are there: a job that looked for them first would complain of those.
NOWHERE = ("--root", "no/dataset")
MEASURE = (*NOWHERE, "--checkpoint", "no/checkpoint")
JOBS = [
    ("shapes", (), "shapes.json"),
    ("scan", NOWHERE, "scan.csv"),
    ("prepare", NOWHERE, "prepare.json"),
    ("pretrain", NOWHERE, "metrics.csv"),
    ("features", MEASURE, "train/index.csv"),
    ("retrieve", MEASURE, "figures/retrieved.png"),
    ("classify", MEASURE, "features/origin.json"),
    ("classify", (*MEASURE, "--all_splits"), "metrics.json"),
    ("classify", (*MEASURE, "--mode", "linear"), "metrics.csv"),
    ("classify", (*MEASURE, "--mode", "linear"), "predictions.csv"),
    ("classify", (*MEASURE, "--mode", "test"), "figures/confusion.png"),
    ("oops", MEASURE, "metrics.json"),
    ("oops", MEASURE, "classifier/model.safetensors"),
    ("oops", (*MEASURE, "--mode", "finetune"), "finetuned/metrics.csv"),
    ("atlas", MEASURE, "figures/slots.png"),
    ("benchmark", ("--video", "no.mp4"), "config.json"),
]


def refusal(capsys, *words):
    """The one line with which a command ends, exit status 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_all_commands_that_write_are_here():
    assert {command for command, _, _ in JOBS} == {
        name
        for name, command in COMMANDS.items()
        if "out" in vars(command.presets[command.default])
    }


@pytest.mark.parametrize("command, words, file", JOBS)
def test_a_job_finds_out_at_its_start_that_it_cannot_write(command, words, file, tmp_path, capsys):
    """2026-11: `atlas` and `oops` found it only when all was computed.

    Root may write anywhere but where there is a file already, or a folder in a file's place.
    """
    (tmp_path / "file").write_text("mine")
    line = refusal(capsys, command, *words, "--out", tmp_path / "file")
    assert line == f"memdpc: {tmp_path / 'file'}: Not a directory"
    (tmp_path / "out" / file).mkdir(parents=True)
    line = refusal(capsys, command, *words, "--out", tmp_path / "out")
    assert line.endswith(f"{tmp_path / 'out' / file}: Is a directory"), line
    assert (tmp_path / "file").read_text() == "mine"


def test_two_measurements_in_one_folder_are_both_there(tmp_path):
    """2026-11: both had read the same metrics.json, and the one wrote over what the other added."""
    program = """
    import sys
    from memdpc.training.run import add_results
    for number in range(20):
        add_results(sys.argv[1], {f"{sys.argv[2]} {number}": number}, main=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    jobs = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [job.wait() for job in jobs] == [0, 0]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert len(found) == 40
    assert add_results(tmp_path, {"c": 1}, main=False) == found | {"c": 1}
    assert "c" not in json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_one_line_and_nothing_is_half_written(tmp_path):
    """2026-11: `oops` ended in the traceback of a library, with half a classifier on the disk.

    A limit on the size of files stands for the full disk, which needs root: the same calls fail.
    """
    program = """
    import resource, sys
    from pathlib import Path
    import matplotlib.pyplot as plt
    import numpy as np
    from memdpc import MemDPC
    from memdpc.base.errors import MemdpcError
    from memdpc.base.files import append_bytes, write_bytes, write_json
    from memdpc.base.viz import save_figure
    from memdpc.evaluation.arrays import save_array
    from memdpc.training.run import write_network

    out = Path(sys.argv[1])
    model = MemDPC(encoder="tiny", img_size=32, num_blocks=2, pred_steps=1, mem_size=4)
    noise = plt.figure()
    noise.add_subplot().imshow(np.random.default_rng(0).random((99, 99)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    for write in (
        lambda: write_bytes(out / "a.bin", bytes(5000)),
        lambda: write_json(out / "a.json", list(range(5000))),
        lambda: save_array(out / "a.npy", np.zeros(5000)),
        lambda: save_figure(noise, out / "a.png"),
        lambda: write_network(out / "net", model),
        lambda: append_bytes(out / "rows", bytes(5000)),
    ):
        try:
            write()
        except (MemdpcError, OSError) as error:
            name = getattr(error, "filename", None) or str(error)
            print(Path(name.split(" ")[0]).name)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["a.bin", "a.json", "a.npy", "a.png", "net", "rows"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
