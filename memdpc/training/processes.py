"""Processes: readers, devices and ranks, and the signals that stop a run."""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader

from memdpc.base.errors import ConfigError, MemdpcError, TrainingError

logger = logging.getLogger(__name__)


def ignore_signals(worker):
    "A process that reads leaves Ctrl-C and SIGTERM to the main process, and ends when that says so: only its SIGTERM counts."
    sys.excepthook = lambda *error: (
        None
    )  # of helper threads, when the main process turns away: it says why itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return  # macOS
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=obey, args=(os.getppid(),), daemon=True).start()


def obey(parent):
    "Wait for a SIGTERM that `parent` sends, and end."
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class Loader(DataLoader):
    "A DataLoader whose processes are born with SIGTERM blocked: one that came before `ignore_signals` was called would end them."

    def __iter__(self):
        if not hasattr(signal, "sigwaitinfo"):
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make_loader(clips, batches, num_workers=0, pin_memory=False):
    "A DataLoader of `clips` in the order of `batches`, in `num_workers` processes (0: in this one)."
    return Loader(
        clips,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=ignore_signals,
    )


class Interruption:
    """Within `with Interruption() as asked:` Ctrl-C and SIGTERM only set `asked.signum`; one that comes more than a second later acts as it always did.

    (Launchers pass a signal on to processes that the terminal has told already: two at once are one wish.)
    """

    def __init__(self):
        self.signum, self.since = 0, 0.0

    def note(self, signum, frame):
        if self.signum and time.monotonic() - self.since > 1:
            self.give_back()
            signal.raise_signal(signum)
        elif not self.signum:
            self.signum, self.since = signum, time.monotonic()

    def __enter__(self):
        self.former = {}
        try:
            self.former.update(
                {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
            )
        except ValueError:
            pass  # not the main thread: signals go elsewhere
        return self

    def give_back(self):
        for signum, handler in self.former.items():
            signal.signal(signum, handler)

    def __exit__(self, *error):
        self.give_back()


@contextmanager
def watched_workers(run=None):
    "Say in one line that a loader's process died (PyTorch raises that wherever the main process happens to be) or what it ran into."
    try:
        yield
    except MemdpcError as error:
        if not str(error).startswith("Caught "):
            raise
        raise TrainingError(
            error.args[0].strip().splitlines()[-1].split("Error: ")[-1]
        ) from None  # PyTorch added the worker's traceback
    except (
        RuntimeError,
        ConnectionResetError,
        EOFError,
    ) as error:  # the last two: it died as it handed over a batch
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else PyTorch raises once more
        kept = f"; last good checkpoint: {run.checkpoint() or 'none'}" if run else ""
        raise TrainingError(
            f"a process that reads videos died ({' '.join(str(error).split())}); if memory ran out, try fewer num_workers{kept}"
        ) from None


def cores():
    "How many cores this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_accelerator(device="auto", precision="auto", num_workers=0):
    """accelerate's view of this process: its device, its rank, its precision (auto: bf16 on GPUs that have it, else float32).

    From then on PyTorch computes on the cores that `num_workers` processes leave, one at least; `OMP_NUM_THREADS` has precedence.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() - num_workers))
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: this machine has no GPU that torch can use")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: not available on this machine")
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"no device {device!r}: choose auto, cpu, cuda or mps")
    on_cpu = device == "cpu" or os.environ.get("ACCELERATE_USE_CPU", "").lower() in (
        "1",
        "true",
        "yes",
    )  # accelerate launch --cpu
    if (
        device == "auto"
        and int(os.environ.get("WORLD_SIZE", 1)) > 1
        and not torch.cuda.is_available()
    ):
        on_cpu = True  # else accelerate ignores the other processes
    if precision == "auto":
        precision = (
            "bf16"
            if not on_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            else "no"
        )
    if "WORLD_SIZE" not in os.environ:
        AcceleratorState._reset_state(reset_partial_state=True)  # runs of one process may differ
    if on_cpu and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        logger.warning(
            "accelerate launch --cpu starts one process only, unless MPI does it; for two: torchrun --nproc_per_node 2 -m memdpc ..."
        )
    if precision == "bf16" and not torch.cuda.is_available():
        logger.warning(
            "bf16 without a GPU is for tests: some CPUs give 3-D convolutions gradients that are no numbers"
        )  # seen with oneDNN, torch 2.13
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def largest(accelerator, number):
    "The largest of the processes' `number`s: what one of them met, all act on."
    if accelerator.num_processes == 1:
        return number
    return accelerator.gather(torch.tensor([number], device=accelerator.device)).max().item()


def mean_over_processes(accelerator, values):
    "`{name: float}`, averaged over the processes."
    names, stacked = list(values), torch.stack([v.detach().float() for v in values.values()])
    if accelerator.num_processes > 1:
        stacked = accelerator.reduce(stacked, "mean")
    return dict(zip(names, stacked.tolist()))
