"""Processes: devices and ranks, readers of clips, and the signals that stop a run.

A queue's time limit, Ctrl-C in a terminal and a launcher that passes signals on all tell *every*
process of a job to end. Only the main process decides: it finishes its step and saves. So
`Interruption` makes a signal a note for the main process, and reader processes ignore signals from
their first moment. They end when the main process tells them to, or when it is gone.
"""

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader, default_collate, get_worker_info

from memdpc.base.errors import (
    ConfigError,
    DatasetError,
    MachineError,
    MemdpcError,
    TrainingError,
    printable,
)
from memdpc.base.limits import (
    explain,
    free_shared_memory,
    raise_open_files,
    shared_memory_serves,
    signals_held_back,
    starting_processes,
)
from memdpc.training.run import Run

logger = logging.getLogger(__name__)

# SIGUSR1 is what Slurm sends some time before a job's limit, if asked (`--signal=USR1@60`).
# SIGHUP comes when the terminal of a run is closed.
_STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGUSR1"):  # not on Windows
    _STOP_SIGNALS += [signal.SIGUSR1, signal.SIGHUP]

_HANGUP = getattr(signal, "SIGHUP", None)
_PATIENCE = 1.0  # seconds within which several signals are one wish


class Interruption:
    """Within `with Interruption() as asked:` a signal to stop only sets `asked.signum`.

    The signals are SIGINT (Ctrl-C), SIGTERM, and SIGUSR1 and SIGHUP, which count as SIGTERM. One
    that comes more than a second after the first acts as usual; SIGHUP means nothing to a run that
    `nohup` started. (Launchers pass a signal on to processes that
    the terminal has told already: two at once are one wish.)
    """

    def __init__(self) -> None:
        self.signum = 0
        self.since = 0.0
        self._former: dict[signal.Signals, Any] = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if not self.signum:
            on_purpose = signum == signal.SIGINT
            self.signum = int(signal.SIGINT if on_purpose else signal.SIGTERM)
            self.since = time.monotonic()
        elif time.monotonic() - self.since > _PATIENCE:
            self._give_back()
            signal.raise_signal(signum)

    def _give_back(self) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # else signals go elsewhere
            for signum in _STOP_SIGNALS:
                self._former[signum] = signal.signal(signum, self._note)
                if signum == _HANGUP and self._former[signum] == signal.SIG_IGN:
                    signal.signal(signum, signal.SIG_IGN)
        return self

    def __exit__(self, *error: object) -> None:
        self._give_back()


# ---- readers: the processes of a DataLoader


_readers: set[Any] = set()  # processes that were started here


@atexit.register
def _end_readers() -> None:
    """Python ends what it started by SIGTERM, which readers ignore, and waits for them."""
    with _default_handler("SIGCHLD"):  # PyTorch's would report them as killed
        for reader in _readers:
            reader.kill()
            reader.join()


def _ignore_signals(worker: int) -> None:
    for signum in _STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


class _ErrorsAsItems:
    """A dataset whose items may be errors: PyTorch would rewrite those that a reader raises."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except MemdpcError as error:
            return error
        except OSError as error:  # the machine's fault: no other video stands in for this one
            reason = error.strerror or error
            return DatasetError(f"{error.filename or 'a video'}: cannot be read ({reason})")


class _Loose(NamedTuple):
    """The items of a batch, to be collated by the main process."""

    items: list[Any]


def _collate(items: list[Any]) -> Any:
    """In a reader: a batch in shared memory; where that does not serve, its items, for a pipe."""
    for item in items:
        if isinstance(item, MemdpcError):
            return item
    reader = get_worker_info()
    if reader is not None:
        size = len(items) * _size(items[0])
        if not shared_memory_serves(size, reader.num_workers):
            return _Loose(items)
    return default_collate(items)


def _size(item: dict[str, Any]) -> int:
    """Bytes of an item's arrays."""
    return sum(getattr(value, "nbytes", 0) for value in item.values())


class _Loader(DataLoader):
    """A DataLoader whose readers outlive signals, and hand over their errors as they are."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        before = set(multiprocessing.active_children())
        if self.num_workers:
            raise_open_files()
        with starting_processes(self.num_workers), signals_held_back(_STOP_SIGNALS):
            batches = super().__iter__()
        _readers.update(set(multiprocessing.active_children()) - before)
        for batch in batches:
            if isinstance(batch, MemdpcError):
                raise TrainingError(str(batch)) from batch
            yield default_collate(batch.items) if isinstance(batch, _Loose) else batch


def make_loader(
    clips: Any,  # anything with `clips[key]` -> dict of arrays and numbers
    batches: Iterable[Sequence[Any]],  # the keys of each batch
    num_workers: int = 0,  # processes that read; 0: this one
    pin_memory: bool = False,
) -> DataLoader:
    """A DataLoader of `clips` in the order of `batches`."""
    return _Loader(
        _ErrorsAsItems(clips) if num_workers else clips,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_collate,
        worker_init_fn=_ignore_signals,
    )


def _exit_code_of_dead_reader() -> int | None:
    """None where all live, or ended well. A process closes its files a moment before it is dead."""
    for _ in range(10):
        for reader in _readers:
            if reader.exitcode:
                return reader.exitcode
        time.sleep(0.05)
    return None


@contextmanager
def watched_workers(run: Run | None = None) -> Iterator[None]:
    """Name the death of a reader in one line, wherever PyTorch raises its error."""
    _readers.difference_update([reader for reader in _readers if not reader.is_alive()])
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:  # as it handed over a batch
        if not _readers:
            raise
        safe = f"; {run.last_good}" if run else ""
        short = explain(error)
        if short:
            raise MachineError(f"{short}{safe}") from error
        # PyTorch's handler of this signal may raise the same error once more, in the midst of this.
        with _default_handler("SIGCHLD"):
            exit_code = _exit_code_of_dead_reader()
        if exit_code is None:
            raise
        what = f"a process that reads videos died (exit code {exit_code})"
        raise TrainingError(f"{what}; {_advice(exit_code)}{safe}") from error


def _advice(exit_code: int) -> str:
    """What may help where a reader died with this exit code (below 0: minus a signal)."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if exit_code == 1 and script and multiprocessing.get_start_method() != "fork":
        return (
            f"new processes run {os.path.basename(script)} again: what it does must stand "
            "below `if __name__ == '__main__':`"
        )
    if -exit_code == getattr(signal, "SIGBUS", None):
        free = free_shared_memory() / 1e6
        return f"/dev/shm may be full ({free:.0f} MB are free): a container has --shm-size for it"
    return "if it ran out of memory, try fewer num_workers"


@contextmanager
def _default_handler(name: str) -> Iterator[None]:
    """A signal acts as it does in a program that does not handle it."""
    if not hasattr(signal, name) or threading.current_thread() is not threading.main_thread():
        yield
        return
    number = signal.Signals[name]
    former = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, former)


# ---- devices and ranks


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(num_workers: int) -> None:
    """Let PyTorch compute on the cores that `num_workers` reader processes leave, at least on one.

    Threads that wait for each other's turn on a core spin, and slow all others down.
    `OMP_NUM_THREADS` has precedence.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() - num_workers))


def arithmetic(accelerator: Accelerator) -> dict[str, Any]:
    """What the last bits of a sum depend on, beside its terms."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": accelerator.device.type,
        "precision": accelerator.mixed_precision,
    }


def keep_arithmetic(run: Run, accelerator: Accelerator) -> None:
    """Let a resumed run compute as it did before, and warn where it cannot.

    Its number of threads is kept, whatever `num_workers` now leaves, as far as there are cores and
    `OMP_NUM_THREADS` says nothing else.
    """
    before = run.state.get("arithmetic", {})
    threads = before.get("threads", 0)
    if 0 < threads <= cores() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    now = arithmetic(accelerator)
    changed = [
        f"{name} {before.get(name, 'unknown')!s:.40} -> {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if run.state["step"] and changed and run.main:
        exact = "from here on not exact to the last bit"
        logger.warning("%s: %s: %s", run.folder, exact, printable(", ".join(changed)))
    run.state["arithmetic"] = now


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: this machine has no GPU that torch can use")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: not available on this machine")
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"no device {device!r}: choose auto, cpu, cuda or mps")


def _computes_on_cpu(device: str) -> bool:
    """Whether accelerate must be told to use the CPU."""
    told_by_launcher = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    # With several processes and no GPU accelerate would ignore all processes but one.
    many = int(os.environ.get("WORLD_SIZE", 1)) > 1
    many_without_gpu = device == "auto" and many and not torch.cuda.is_available()
    return device == "cpu" or told_by_launcher or many_without_gpu


def make_accelerator(
    device: str = "auto",  # auto, cpu, cuda, mps
    precision: str = "auto",  # auto: bf16 on GPUs that have it, else float32; no, bf16
    num_workers: int | None = None,  # not None: `limit_threads(num_workers)` as well
) -> Accelerator:
    """accelerate's view of this process: its device, its rank, its precision."""
    if num_workers is not None:
        limit_threads(num_workers)
    _check_device(device)
    on_cpu = _computes_on_cpu(device)
    on_gpu = not on_cpu and torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "no"
    if "WORLD_SIZE" not in os.environ:
        # Two runs of one process may differ in device and precision; there is no public way.
        AcceleratorState._reset_state(reset_partial_state=True)
        if on_cpu and "MASTER_PORT" in os.environ:
            logger.warning(
                "accelerate launch --cpu starts one process only, unless MPI does it; "
                "for two: torchrun --nproc_per_node 2 -m memdpc ..."
            )
    if precision == "bf16" and not torch.cuda.is_available():  # seen with oneDNN, torch 2.13
        logger.warning(
            "bf16 without a GPU is for tests: on some CPUs gradients of 3-D convolutions are NaN"
        )
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def largest(accelerator: Accelerator, numbers: Sequence[int]) -> list[int]:
    """Each number's largest value in any process: what one of them met, all act on."""
    if accelerator.num_processes == 1:
        return list(numbers)
    mine = torch.tensor([numbers], device=accelerator.device)
    return accelerator.gather(mine).amax(0).tolist()


def mean_over_processes(
    accelerator: Accelerator, values: dict[str, torch.Tensor]
) -> dict[str, float]:
    """`{name: scalar}`, averaged over the processes."""
    names = list(values)
    stacked = torch.stack([value.detach().float() for value in values.values()])
    if accelerator.num_processes > 1:
        stacked = accelerator.reduce(stacked, "mean")
    return dict(zip(names, stacked.tolist(), strict=True))


__all__ = ["make_accelerator", "make_loader"]
