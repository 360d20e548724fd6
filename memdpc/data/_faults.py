"""Whose fault it is that a file gives no pictures: its own, or that of the system around it.

What is wrong with a file stays so until the file changes, and is worth remembering. A missing
right, a limit of the process, a disk or a network that fails are over some time, and must not be
held against the file. So only what the decoder says of bytes that can be read is the file's.
"""

import errno
import os

from memdpc.base.errors import VideoError, printable
from memdpc.base.files import stamp
from memdpc.data.guard import Entry

_NAMES = """
EACCES EPERM EMFILE ENFILE ENOMEM EAGAIN EBUSY EINTR EIO ESTALE ENOENT ENODEV ENXIO ENOTDIR ELOOP
ENOTCONN ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ECONNREFUSED ECONNRESET ECONNABORTED
EPIPE EREMOTEIO EKEYEXPIRED EKEYREVOKED ENOKEY ENOSPC EDQUOT ENOMEDIUM EUCLEAN
"""
# FFmpeg uses EIO and ENOMEM for damage, too: such a file is merely opened again.
_SYSTEMS = {getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name)}


def failure(
    path: str | os.PathLike,
    error: VideoError,
) -> Entry:
    """`{"stamp", "reason"}` of a file that is to blame for `error`, `{"reason"}` of others."""
    entry: Entry = {"reason": printable(error.reason)}
    cause = error.__cause__ or error.__context__
    if isinstance(cause, MemoryError) or getattr(cause, "errno", None) in _SYSTEMS:
        return entry
    try:
        return {"stamp": stamp(path)} | entry
    except OSError:
        return entry


def read_through(path: str | os.PathLike) -> None:
    """Read a regular file from its begin to its end; raises `OSError` where that fails.

    A decoder takes a disk's error for the end of the file, and would tell of fewer frames. The
    bytes are in memory then, when it asks for them.
    """
    if not os.path.isfile(path):
        return  # a pipe would be waited for
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
