"""A checkpoint's tensors in safetensors files: only the rows and columns asked for are read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import CheckpointError

__all__ = ["Checkpoint", "from_bfloat16", "to_bfloat16"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# safetensors' names of the number formats read; NumPy has no bf16, so it is taken as its bits.
_DTYPES: dict[str, np.dtype[Any]] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_CHUNK = 1 << 22  # elements converted at a time
_ALL = slice(None)


class _Entry(NamedTuple):
    """Where a tensor lies: bytes `start` to `stop` of its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> bf16 bits (uint16) of the same shape, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bf16 bits (uint16) -> float32 of the same shape, exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Checkpoint:
    """The tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists.

    Opening reads the headers, so whether a tensor is there, whole and of the right shape is known before any is read.

    Parameters
    ----------
    path
        The checkpoint's folder.

    Raises
    ------
    CheckpointError
        No weights in the folder, a shard is missing, or a file is no safetensors file.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = Path(path)
        self._placed: Mapping[str, str] = {}
        files = [_SINGLE]
        if not (self.folder / _SINGLE).is_file():
            self._placed = _read_index(self.folder)
            files = sorted(set(self._placed.values()))
        self._entries: dict[str, _Entry] = {}
        self._bytes: dict[Path, np.ndarray] = {}
        for file in files:
            self._open(self.folder / file)

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's whole shape, from its file's header."""
        return self._entry(name).shape

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `CheckpointError` unless the tensor is there, whole, of this shape and in a format that is read."""
        entry = self._entry(name, shape)
        if entry.shape != shape:
            raise CheckpointError(
                f"{entry.file}: tensor {name} has shape {list(entry.shape)}, but config.json makes it {list(shape)}"
            )
        self._view(name, entry)

    def read(self, name: str, rows: slice = _ALL, columns: slice = _ALL) -> np.ndarray:
        """Part of a tensor as bf16 bits: uint16 [rows, columns], or [rows] of a tensor of one dimension.

        Slices are clipped to the tensor, as NumPy's are. fp16 and fp32 are rounded to nearest even. A bf16 tensor comes
        as a read-only view of the file: its bytes are read when they are used.
        """
        part = self._part(name, rows, columns)
        if part.dtype == np.uint16:
            return part
        bits = np.empty(part.shape, np.uint16)
        step = max(1, _CHUNK // max(1, math.prod(part.shape[1:])))
        for i in range(0, len(part), step):
            bits[i : i + step] = to_bfloat16(part[i : i + step].astype(np.float32))
        return bits

    def read_float(self, name: str, rows: slice = _ALL, columns: slice = _ALL) -> np.ndarray:
        """The same part as float32, exact whatever the file's format."""
        part = self._part(name, rows, columns)
        return from_bfloat16(part) if part.dtype == np.uint16 else part.astype(np.float32)

    def _part(self, name: str, rows: slice, columns: slice) -> np.ndarray:
        tensor = self._view(name, self._entry(name))
        return tensor[rows] if tensor.ndim == 1 else tensor[rows, columns]

    def _entry(self, name: str, shape: tuple[int, ...] | None = None) -> _Entry:
        if name not in self._entries:
            file = self.folder / self._placed.get(name, _INDEX if self._placed else _SINGLE)
            expected = "" if shape is None else f", which config.json makes {list(shape)}"
            raise CheckpointError(f"{file} holds no tensor {name}{expected}")
        return self._entries[name]

    def _view(self, name: str, entry: _Entry) -> np.ndarray:
        """The whole tensor, mapped and not yet read."""
        if entry.dtype not in _DTYPES:
            raise CheckpointError(f"{entry.file}: tensor {name} is {entry.dtype}; only BF16, F16 and F32 are read")
        data = self._bytes[entry.file]
        shape, dtype = list(entry.shape), _DTYPES[entry.dtype]
        if entry.stop - entry.start != math.prod(shape) * dtype.itemsize:
            size = entry.stop - entry.start
            raise CheckpointError(f"{entry.file}: tensor {name} has {size} bytes, not those of {entry.dtype} {shape}")
        if entry.stop > len(data):
            raise CheckpointError(
                f"{entry.file} is truncated: tensor {name} {shape} ends at byte {entry.stop} of a file of {len(data)}"
            )
        return data[entry.start : entry.stop].view(dtype).reshape(shape)

    def _open(self, file: Path) -> None:
        """Map a file and read its header: 8 bytes of length, then JSON, then the tensors' bytes."""
        if not file.is_file():
            raise CheckpointError(f"{file}, which {_INDEX} names, is missing")
        if file.stat().st_size < 8:
            raise CheckpointError(f"{file} is truncated: it has no safetensors header")
        data = np.asarray(np.memmap(file, np.uint8, mode="r"))
        start = 8 + int(data[:8].view("<u8")[0])
        if start > len(data):
            raise CheckpointError(f"{file} is truncated or no safetensors file: its header would end at byte {start}")
        header = _read_json(file, data[8:start].tobytes())
        header.pop("__metadata__", None)
        self._bytes[file] = data
        try:
            for name, tensor in header.items():
                first, last = tensor["data_offsets"]
                shape = tuple(tensor["shape"])
                self._entries[name] = _Entry(file, tensor["dtype"], shape, start + first, start + last)
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{file} is no safetensors file: its header misdescribes tensor {name}") from None


def _read_index(folder: Path) -> dict[str, str]:
    """Which file each tensor is in."""
    index = folder / _INDEX
    if not index.is_file():
        raise CheckpointError(f"{folder} holds neither {_SINGLE} nor {_INDEX}: only safetensors weights are read")
    placed = _read_json(index, index.read_bytes()).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no weight_map")
    return placed


def _read_json(file: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{file} is broken: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} is broken: no JSON object where one should be")
    return header
