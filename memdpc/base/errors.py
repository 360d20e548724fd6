"""Errors that are the user's to fix: one clear line; the command line ends with exit status 2."""

import re


class MemdpcError(Exception):
    """An error that is the user's to fix; its text is one line, safe to print anywhere."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(MemdpcError):
    """A parameter that no job has, or a value that its field cannot take."""


class DatasetError(MemdpcError):
    """A dataset that cannot be used: says what is missing, and where it was looked for."""


class CheckpointError(MemdpcError):
    """A checkpoint that cannot be used; the message names the entry that is wrong."""


class TrainingError(MemdpcError):
    """A run that cannot go on; the message names the step and what is safe on disk."""


class VideoError(MemdpcError):
    """A file that gives no frames: `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        # Both are args, so that the error survives the way back from a worker process.
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


class Stopped(Exception):
    """A run that a signal stopped, and that saved first; no `MemdpcError`, for nothing is wrong."""

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(f"stopped at step {step}, saved; go on with --resume True")
        self.step = step
        self.status = 128 + signum  # the exit status of a program that a signal ended


def printable(text: object) -> str:
    """One line that can be written anywhere: names may hold line ends, or bytes not in UTF-8."""
    line = str(text).encode("utf-8", "backslashreplace").decode()
    control = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
    return re.sub(control, lambda found: repr(found[0])[1:-1], line)


__all__ = [
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "MemdpcError",
    "Stopped",
    "TrainingError",
    "VideoError",
]
