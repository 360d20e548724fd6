"""Files written whole or not at all, and locks: under kills, links, errors and other processes."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from memdpc.base import files
from memdpc.base.errors import ConfigError, DatasetError, TrainingError
from memdpc.base.files import (
    append_bytes,
    atomic_write,
    cache_folder,
    expand_home,
    hold_folder,
    output_folder,
    read_json,
    read_lines,
    read_plain,
    read_text,
    stamp,
    turn,
    write_bytes,
    write_failure,
    write_json,
)

posix = pytest.mark.skipif(os.name == "nt", reason="signals and forks of POSIX")
not_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere"
)


def start(program, *args):
    """Run a program in a process of its own; its standard output can be read line by line."""
    source = "import os, sys, time\nfrom pathlib import Path\n" + textwrap.dedent(program)
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- written whole or not at all


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "new" / "a.bin"
    write_bytes(path, b"first")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["a.bin"]


def test_json_is_indented_and_ends_its_line(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"x": [1, None]}
    assert text == '{\n  "x": [\n    1,\n    null\n  ]\n}\n'


def test_a_folder_is_written_whole(tmp_path):
    with atomic_write(tmp_path / "step") as part:
        part.mkdir()
        (part / "weights").write_bytes(b"w" * 1000)
        assert not (tmp_path / "step").exists()
    assert names(tmp_path) == ["step"]
    assert (tmp_path / "step" / "weights").stat().st_size == 1000


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path):
    """2026-11: a classifier was written file by file over the one of the run before."""
    for name in ("first", "second"):
        with atomic_write(tmp_path / "net") as part:
            part.mkdir()
            (part / name).write_bytes(b"w")
    assert names(tmp_path) == ["net"]
    assert names(tmp_path / "net") == ["second"]
    with pytest.raises(ValueError), atomic_write(tmp_path / "net") as part:
        part.mkdir()
        raise ValueError
    assert names(tmp_path / "net") == ["second"]


def test_a_part_lies_in_a_folder_that_was_made_for_it(tmp_path):
    """2026-11: `.metrics.json.part` could be a link that somebody had placed.

    A folder is made or it is an error: no name in it can have been taken.
    """
    name = "n" * 255  # as long as a name may be
    with atomic_write(tmp_path / name) as part:
        assert not os.path.lexists(part)
        assert part.parent.parent == tmp_path
        part.write_bytes(b"new")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_old_file(tmp_path, kind):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(kind), atomic_write(tmp_path / "a") as part:
        part.write_bytes(b"half")
        raise kind
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_an_error_without_a_name_gets_the_files(tmp_path):
    """2026-11: "No space left on device", without a word on which file and which device."""
    with pytest.raises(OSError) as error, atomic_write(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError) as error, atomic_write(tmp_path / "a") as part:
        part.mkdir()
        (part / "weights").mkdir()
        (part / "weights").write_bytes(b"")
    assert error.value.filename == str(tmp_path / "a")
    expected = pytest.raises(TrainingError, match=r"a cannot be written \(full; .* MB are free\)")
    with expected, atomic_write(tmp_path / "a"):
        raise OSError("full")  # as a library may say it, without a number
    assert "MB are free" in write_failure(tmp_path / "a", OSError("full"))


@not_root
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as error:
        write_bytes(tmp_path / "a", b"")
    assert error.value.filename == str(tmp_path / "a")


@posix
def test_killed_while_it_writes(tmp_path):
    """2026-11: a file cut in the middle, which the next run read as whole.

    Killed again and again while it overwrites, the file is always one of those written.
    """
    path = tmp_path / "a"
    program = """
    from memdpc.base.files import write_bytes
    for number in range(10**6):
        write_bytes(sys.argv[1], bytes([number % 256]) * 300_000)
        if number == 0: print("begun", flush=True)
    """
    for _ in range(4):
        writer = start(program, path)
        assert writer.stdout.readline() == "begun\n"
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        data = path.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1
    write_bytes(path, b"whole")
    assert names(tmp_path) == ["a"]


@posix
def test_what_is_being_written_stays_when_another_writes_there(tmp_path):
    """2026-11: two calls of `memdpc shapes` in one folder removed each other's parts."""
    program = """
    from memdpc.base.files import atomic_write
    with atomic_write(sys.argv[1]) as part:
        part.write_bytes(b"slow")
        print("begun", flush=True)
        sys.stdin.readline()
    """
    slow = start(program, tmp_path / "a")
    assert slow.stdout.readline() == "begun\n"
    with atomic_write(tmp_path / "b") as part:  # and in one process: a write within a write
        write_bytes(tmp_path / "c", b"quick")
        part.write_bytes(b"quick")
    assert len(names(tmp_path)) == 4  # with what the other process works on, and its lock
    slow.communicate("on\n")
    assert slow.returncode == 0
    assert names(tmp_path) == ["a", "b", "c"]


@posix
def test_many_writers_in_one_folder(tmp_path):
    """Each clears what others may have just made: none loses its work, and nothing is left."""
    program = """
    from memdpc.base.files import write_bytes
    for number in range(400):
        write_bytes(f"{sys.argv[1]}-{number % 7}", b"x" * 100)
    """
    writers = [start(program, tmp_path / f"w{number}") for number in range(3)]
    said = [writer.communicate() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], said
    assert len(names(tmp_path)) == 21


@posix
def test_a_link_at_a_foreseeable_name_is_not_followed(tmp_path):
    """2026-11: `a.part` was a link that another user had placed; the file behind it was lost."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("a.part", ".a.part", "a.tmp"):
        (tmp_path / name).symlink_to(precious)
    write_bytes(tmp_path / "a", b"new")
    assert precious.read_text() == "mine"
    assert (tmp_path / "a").read_bytes() == b"new"


@posix
def test_a_link_at_the_files_own_name_is_replaced(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "a").symlink_to(precious)
    write_bytes(tmp_path / "a", b"new")
    assert precious.read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()


def test_parts_of_the_dead_are_cleared_and_nothing_else(tmp_path):
    part = files.PART
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / f".{16 * 'a'}{part}").mkdir()
    (tmp_path / f".{16 * 'a'}{part}" / "weights").write_bytes(b"half")
    (tmp_path / f".{16 * 'b'}.lock{part}").write_bytes(b"")
    (tmp_path / f".{16 * 'c'}{part}").symlink_to(precious)
    (tmp_path / f"mine{part}").write_bytes(b"not hidden, so not ours")
    (tmp_path / f".film.mp4{part}").write_bytes(b"hidden, and a downloader's")
    write_bytes(tmp_path / "a", b"")
    assert names(tmp_path) == [f".film.mp4{part}", "a", f"mine{part}", "precious"]
    assert not list(precious.iterdir())


def test_where_nothing_can_be_locked_parts_rest_for_an_hour(tmp_path, monkeypatch):
    def no_locks(lock, **how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.FileLock, "acquire", no_locks)
    old, new = 16 * "a", 16 * "b"
    for name, age in (old, 4000), (new, 10):
        folder = tmp_path / f".{name}{files.PART}"
        folder.mkdir()
        then = time.time() - age
        os.utime(folder, (then, then))
    write_bytes(tmp_path / "a", b"whole")
    assert names(tmp_path) == [f".{new}{files.PART}", "a"]


# ---- where a job writes


def test_the_folder_of_a_job_is_tried_and_nothing_is_left(tmp_path):
    out = tmp_path / "new" / "out"
    assert output_folder(str(out), "metrics.json", "figures/a.png") == out
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text("{}")
    output_folder(tmp_path / "old", "metrics.json")
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["metrics.json"]
    with pytest.raises(ConfigError, match="no out"):
        output_folder("", "metrics.json")


def test_what_is_in_the_way_is_named(tmp_path):
    """2026-11: `oops` worked for an hour, and then could not write its results."""
    (tmp_path / "file").write_text("")
    (tmp_path / "metrics.json").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    cases = [("file", "a", "file"), ("file/deeper", "a", "file"), ("link", "a", "link")]
    cases += [(".", "metrics.json", "metrics.json"), (".", "file/a.png", "file")]
    for out, file, culprit in cases:
        with pytest.raises(OSError) as error:
            output_folder(tmp_path / out, file)
        assert error.value.filename == str(tmp_path / culprit)


@not_root
def test_a_place_that_is_read_only_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as error:
        output_folder(tmp_path / "new", "metrics.json")
    assert error.value.filename == str(tmp_path)


@posix
def test_nothing_is_appended_through_a_link(tmp_path):
    append_bytes(tmp_path / "rows", b"one\n")
    append_bytes(tmp_path / "rows", b"two\n")
    (tmp_path / "link").symlink_to(tmp_path / "rows")
    with pytest.raises(OSError) as error:
        append_bytes(tmp_path / "link", b"three\n")
    assert error.value.filename == str(tmp_path / "link")
    assert (tmp_path / "rows").read_bytes() == b"one\ntwo\n"


# ---- read with care


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "3", '{"a": 1', "\xff", "[" * 100_000, '{"a":' * 60 + "1" + "}" * 60]
)
def test_json_that_is_not_a_dict_is_damaged(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="damaged, they say"):
        read_json(tmp_path / "a.json", ConfigError("damaged, they say"))


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    """Gigabytes of JSON, of which a bomb takes thirty times as much; here they are a hole."""
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match="damaged, they say"):
        read_json(tmp_path / "a.json", ConfigError("damaged, they say"))
    with pytest.raises(DatasetError, match="a.json: larger than 2048 MB"):
        read_text(tmp_path / "a.json")


@posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, kind):
    """2026-11: a pipe was waited for without end, and a device read without end."""
    path = tmp_path / "a.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="no plain file"):
        read_plain(path)
    with pytest.raises(ConfigError, match="damaged, they say"):
        read_json(path, ConfigError("damaged, they say"))


def test_text_with_a_byte_order_mark_and_empty_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n  two \n".encode())
    assert read_lines(tmp_path / "a.txt") == ["one", "two"]


def test_what_is_not_text_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    for path, reason in (tmp_path / "a", "UTF-8"), (tmp_path, "no plain file"):
        with pytest.raises(DatasetError, match=reason):
            read_text(path)


@posix
def test_a_pipe_is_not_read(tmp_path):
    """2026-11: a named pipe among the lists, and a job that waited for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatasetError, match="no plain file"):
        read_text(tmp_path / "pipe")


def test_a_stamp_tells_a_changed_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    before = stamp(path)
    os.utime(path, ns=(1, 1))
    assert before[0] == 1
    assert stamp(path) == [1, 1] != before


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("MEMDPC_CACHE", "")
    assert cache_folder() == Path.home() / ".cache" / "memdpc"


# ---- locks

HOLD = """
from memdpc.base.files import hold_folder
lock = hold_folder(Path(sys.argv[1]))
if "fork" not in sys.argv:
    print(1, flush=True)
elif os.fork() == 0:
    print(os.getpid(), flush=True)  # by the child: until it runs, it shares the lock
time.sleep(600)
"""


def test_a_folder_is_held_until_it_is_released(tmp_path):
    holder = start(HOLD, tmp_path)
    try:
        assert holder.stdout.readline() == "1\n"
        with pytest.raises(ConfigError, match="another process is at work in this folder"):
            hold_folder(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    hold_folder(tmp_path).release()


def test_the_same_process_may_hold_a_folder_again(tmp_path):
    """2026-11: a notebook's cell that was run twice was told of another process."""
    first = hold_folder(tmp_path / "new")
    second = hold_folder(tmp_path / "new")
    assert first.is_locked and second.is_locked
    second.release()
    assert not first.is_locked


@posix
def test_a_killed_holder_lets_go_though_its_children_live(tmp_path):
    """2026-11: the readers of a killed run kept its lock, and the run could not be continued."""
    holder = start(HOLD, tmp_path, "fork")
    child = int(holder.stdout.readline())
    try:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # it is still there
        hold_folder(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", files._NO_LOCKS_HERE)
def test_where_files_cannot_be_locked_nothing_is(tmp_path, monkeypatch, number):
    def refuse(*args):
        raise OSError(number, "no locks here")

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not hold_folder(tmp_path).is_locked
    with turn(tmp_path / "index"):
        pass


def test_a_turn_is_waited_for_and_a_kill_ends_it(tmp_path, caplog):
    program = """
    from memdpc.base.files import turn
    with turn(Path(sys.argv[1])):
        print("in", flush=True)
        time.sleep(600)
    """
    second_program = """
    import logging
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    from memdpc.base.files import turn
    with turn(Path(sys.argv[1])):
        print("in", flush=True)
    """
    first = start(program, tmp_path / "index")
    second = None
    try:
        assert first.stdout.readline() == "in\n"
        second = start(second_program, tmp_path / "index")
        assert "waiting" in second.stdout.readline()
        assert second.poll() is None
        first.kill()
        assert second.stdout.readline() == "in\n"
        assert second.wait() == 0
        assert not (tmp_path / "index").exists()
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()


def test_turns_are_taken_one_at_a_time(tmp_path):
    """Four processes add to a number a hundred times each, and nothing is lost."""
    program = """
    from memdpc.base.files import turn
    path = Path(sys.argv[1])
    for _ in range(100):
        with turn(path):
            number = int(path.read_text())
            path.write_text(str(number + 1))
    """
    (tmp_path / "number").write_text("0")
    workers = [start(program, tmp_path / "number") for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert (tmp_path / "number").read_text() == "400"


def test_where_nothing_can_be_written_nobody_waits(tmp_path):
    (tmp_path / "file").write_text("")
    with turn(tmp_path / "file" / "cache" / "index"):
        pass


# ---- home folders


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    """2026-11: `~/run` that no shell had expanded made a folder named `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert Path(expand_home("~/a b/")) == tmp_path / "a b"
    assert [expand_home(path) for path in ("", "a/~", "./~", "/x")] == ["", "a/~", "./~", "/x"]
    with pytest.raises(ConfigError, match="no such home folder"):
        expand_home("~nobody-of-this-name/x")
    monkeypatch.setenv("MEMDPC_CACHE", "~/kept")
    assert cache_folder() == tmp_path / "kept"


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch):
    """2026-11: a container with an unknown user: a traceback of pathlib's."""

    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.delenv("MEMDPC_CACHE", raising=False)
    monkeypatch.setattr(files.Path, "home", nowhere)
    with pytest.raises(ConfigError, match="name a folder in the environment variable MEMDPC_CACHE"):
        cache_folder()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_appending_to_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "index.jsonl")
    with pytest.raises(OSError, match="index.jsonl"):
        append_bytes(tmp_path / "index.jsonl", b"a line")
