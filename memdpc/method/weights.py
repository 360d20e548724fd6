"""Files of weights, read with care: a stranger's file costs no more memory than its own size.

Both formats can claim what they do not hold: safetensors in its header, a file of `torch.save` in
its zip entries (which may unfold to gigabytes) and in its tensors (a stride of 0 makes billions of
numbers of one). What is claimed is compared with the file's size before memory is asked for. What
cannot be read is a `CheckpointError` of one line; a pipe or a device is refused, not waited for.
"""

import json
import math
import mmap
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from memdpc.base.errors import CheckpointError
from memdpc.base.files import is_of_machine

WEIGHTS = "model.safetensors"  # the name in every folder

FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
INTEGERS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
_DTYPES = FLOATS | INTEGERS  # as safetensors calls them

_LONGEST_HEADER = 8_000_000  # bytes: about 80,000 entries
_MOST_SIDES = 64  # of a tensor; multiplying a million of them takes hours

# How many times the size of their file tensors may have. They may share memory: the released code
# writes each weight of a GRU under two names.
_MOST_SHARED = 4

# What torch lets a pickle call though it takes memory at once: bytes in any number, and a tensor of
# stride 0 written out. Pickles that torch reads hold these names as plain text.
_UNFOLDING = (b"bytearray\n", b"_rebuild_device_tensor_from_cpu_tensor\n")


class Entry(NamedTuple):
    """What a header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


# ---- safetensors


def read_header(path: Path) -> dict[str, Entry]:
    """The entries of a safetensors file, by name; no tensor is read."""
    size = _size_of(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                raise CheckpointError(f"{path}: no weights that can be read (no safetensors)")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no weights that can be read (a damaged header)") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: no weights that can be read (a damaged header)")
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, found) for name, found in header.items()}
    claimed = sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in entries.values())
    if claimed > size:
        raise CheckpointError(f"{path}: is cut short: its tensors have {claimed} bytes")
    return entries


def _entry(path: Path, name: str, found: Any) -> Entry:
    """An entry of a header, checked."""
    match found:
        case {"dtype": str(kind), "shape": [*shape]}:
            if kind not in _DTYPES:
                raise CheckpointError(f"{path}: {name}: no weights of type {kind} are known here")
            sides_fit = all(type(side) is int and 0 <= side < 2**63 for side in shape)
            if len(shape) <= _MOST_SIDES and sides_fit:
                return Entry(_DTYPES[kind], tuple(shape))
    raise CheckpointError(f"{path}: {name}: damaged in the header")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Memory for the whole file is asked for: compare its header with what is wanted first.
    """
    read_header(path)
    try:
        return load(path.read_bytes())  # not by its name, which need not be UTF-8
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: no weights that can be read ({error})") from error


# ---- files of torch.save


def read_pickle(path: Path, allowed: list[Any] | None = None) -> Any:
    """What `torch.save` wrote, on the CPU; nothing in the file can run code.

    Tensors, plain containers and what is `allowed` may stand there (as in
    `torch.serialization.safe_globals`), and no more bytes of tensors than the file can hold.
    """
    size = _size_of(path)
    refused = f"{path}: not a checkpoint that can be loaded safely"
    try:
        _refuse_bombs(path, size)
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(allowed or []),
        ):
            found = torch.load(path, map_location="cpu", weights_only=True)
        claimed = sum(_plain_bytes(tensor) for tensor in _tensors_in(found))
    except pickle.UnpicklingError as error:
        reason = "it asks for code to be run, or is damaged"
        raise CheckpointError(f"{refused} ({reason})") from error
    except Exception as error:  # whatever a damaged file makes the reader raise
        if isinstance(error, OSError) and is_of_machine(error):
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        raise CheckpointError(f"{refused} (it is damaged, or no checkpoint)") from error
    if claimed > _MOST_SHARED * size:
        raise CheckpointError(f"{refused} (its tensors claim {claimed} bytes, the file has {size})")
    return found


def _refuse_bombs(path: Path, size: int) -> None:
    """`ValueError` for a file that unfolds: by a call in its pickle, or by its zip entries.

    Those are larger than the file only where they are compressed, which torch never does.
    """
    with open(path, "rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if any(content.find(name) >= 0 for name in _UNFOLDING):
                raise ValueError("a call that takes memory")
        if file.read(4) != b"PK\x03\x04":
            return  # the format before 2020, which is read as a stream
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError("entries that unfold")


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested containers, which may be deep, and may hold themselves."""
    seen = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _plain_bytes(tensor: torch.Tensor) -> int:
    """The bytes of a tensor's numbers; `ValueError` for one that is not simply an array."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_nested:
        raise ValueError(f"a {tensor.layout} tensor")
    return tensor.numel() * tensor.element_size()


def _size_of(path: Path) -> int:
    """A file's size in bytes; `CheckpointError` for what is none: a pipe would be waited for."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a checkpoint, not even a file")
    return path.stat().st_size


__all__ = []
