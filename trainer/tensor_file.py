"""Tensors in a file of the safetensors format, one after the other: no more than one of them is in memory beside the model.

Any reader of safetensors reads these files. The library itself would want a local path, or all bytes at once.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pipeline.storage import DataFile, Storage
from trainer.errors import CheckpointError
from trainer.sharding import is_cut, whole

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What a file says of a tensor before its bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def slots_of(tensors: Sequence[tuple[str, Tensor]]) -> list[Slot]:
    """In the order that a file holds them: wide types first, so that each begins at a multiple of its own width."""
    found = [Slot(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape)) for name, tensor in tensors]
    return sorted(found, key=lambda slot: (-slot.dtype.itemsize, slot.name))


def write_tensors(file: DataFile | None, tensors: Sequence[tuple[str, Tensor]]) -> None:
    """Tensors by unique names. All ranks call it, for some may be cut among them; ``file`` is the first rank's."""
    slots, by_name = slots_of(tensors), dict(tensors)
    if file is not None:
        file.write(_header(slots))
    for slot in slots:
        tensor = by_name[slot.name]
        if file is not None:
            file.write(whole(tensor).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif is_cut(tensor):
            whole(tensor)


def read_slots(storage: Storage, name: str) -> list[Slot]:
    """What is in a file, without reading it. Raises CheckpointError."""
    with storage.open(name) as stream:
        (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
        return _slots(stream.read(length), f"{storage.url}/{name}")


def read_tensors(storage: Storage, name: str, *, sha256: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a file in its order, on the CPU. Raises CheckpointError, at the latest after the last, if it was changed."""
    place = f"{storage.url}/{name}"
    digest = hashlib.sha256()
    with storage.open(name) as stream:
        start = stream.read(_LENGTH.size)
        header = stream.read(_LENGTH.unpack(start)[0]) if len(start) == _LENGTH.size else b""
        digest.update(start + header)
        for slot in _slots(header, place):
            data = bytearray(stream.read(slot.bytes))
            if len(data) != slot.bytes:
                raise CheckpointError(
                    f"{place} ends within {slot.name}; it is damaged: remove its folder to go on from an older one"
                )
            digest.update(data)
            flat = torch.frombuffer(data, dtype=slot.dtype) if data else torch.empty(0, dtype=slot.dtype)
            yield slot.name, flat.reshape(slot.shape)
    if digest.hexdigest() != sha256:
        raise CheckpointError(f"{place} is not what was written there; remove its folder to go on from an older one")


def _header(slots: Sequence[Slot]) -> bytes:
    at, entries = 0, {}
    for slot in slots:
        entries[slot.name] = {
            "dtype": _NAMES[slot.dtype],
            "shape": slot.shape,
            "data_offsets": [at, at + slot.bytes],
        }
        at += slot.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


def _slots(header: bytes, place: str) -> list[Slot]:
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        ordered = sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"]))
        return [Slot(name=n, dtype=_DTYPES[e["dtype"]], shape=tuple(e["shape"])) for n, e in ordered]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{place} is no file of tensors; remove its folder to go on from an older one") from error
