"""Errors that are the user's to fix: one clear line; the command line ends with exit status 2."""


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


class MachineError(MemdpcError):
    """Too little memory, or too few open files or processes: says which, and how to go on."""


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
    r"""One line that shows what it holds and does nothing else, such as `\x1b[2J`.

    Names of files and classes may hold line ends, commands to a terminal, marks that turn the
    direction of what follows, characters that nobody sees, or bytes that are not UTF-8.
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text)
    )


__all__ = [
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "MachineError",
    "MemdpcError",
    "Stopped",
    "TrainingError",
    "VideoError",
]
