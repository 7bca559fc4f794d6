"""Arrays and streams of other libraries: where an array's elements lie, which stream a stream is. Nothing is copied."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .dlpack import is_contiguous, place_of, tensor_of
from .errors import InputError, ShmemtpError
from .heap import ArrayView

if TYPE_CHECKING:
    from .runtime import PE

__all__ = ["Borrowed", "borrow", "overlap", "stream_handle"]

KINDS = ("float32", "bfloat16", "float16", "int32")  # numbered as in device/element.py
ITEM_BYTES = (4, 2, 2, 4)
BITS = "uint16"  # what NumPy holds bf16 in
HALVES = ("bfloat16", "float16")


class Borrowed(NamedTuple):
    """Another's array as a collective sees it: `count` elements of `kind` (device/element.py) from `address` on.

    `shape` is a tuple of ints; `owner` is the array, which keeps the memory alive.
    """

    address: int
    count: int  # type: ignore[assignment] # a tuple's own count is not missed
    kind: int
    shape: tuple[int, ...]
    owner: Any

    @property
    def nbytes(self) -> int:
        return self.count * ITEM_BYTES[self.kind]


class Described(NamedTuple):
    """What its library says of an array. `place` is a GPU's ordinal, None for the host's memory."""

    address: int
    shape: tuple[int, ...]
    contiguous: bool
    dtype: str
    place: int | None
    writable: bool = True


def borrow(pe: "PE", array, dtype: str | None = None, *, stream: int | None = None, write: bool = False) -> Borrowed:
    """Where a C-contiguous array of this PE's device lies. Not collective; costs about two microseconds for torch's.

    array : a symmetric array, a torch tensor, or an object with `__array_interface__`, `__dlpack__` or
        `__cuda_array_interface__`; float32, bfloat16, float16 or int32. On GPUs this PE's device memory, in the
        emulator the host's.
    dtype : "bfloat16" or "float16", of an array of uint16 that holds their bits. A symmetric array's are bfloat16's
        if nothing is said, with others it must be.
    stream : the handle of the stream that will use the memory (None: the PE's own). A library that is asked by DLPack
        (CuPy, JAX) has it wait for what the array still waits for; a torch tensor must be ready in stream order.
    write : whether the memory will be written; one that is only to be read is then refused.

    InputError says what about the array does not do.
    """
    described = _describe(pe, array, stream)
    if not described.contiguous:
        raise InputError(f"this array (shape {list(described.shape)}) is not C-contiguous: make it so first")
    if write and not described.writable:
        raise InputError("this array is only to be read, and the result would be written into it: give `out`")
    _check_place(described.place, pe.device.ordinal)
    count = 1
    for length in described.shape:
        count *= length
    kind = _kind(described.dtype, dtype, isinstance(array, ArrayView))
    if described.address % ITEM_BYTES[kind]:
        raise InputError(f"this array begins at no multiple of its elements' {ITEM_BYTES[kind]} bytes")
    return Borrowed(described.address, count, kind, described.shape, array)


def overlap(a: Borrowed, b: Borrowed) -> bool:
    """Whether two arrays share some bytes and are not the same bytes: in place is no overlap."""
    same = (a.address, a.nbytes) == (b.address, b.nbytes)
    return not same and max(a.address, b.address) < min(a.address + a.nbytes, b.address + b.nbytes)


def stream_handle(stream) -> int | None:
    """The handle of a CUDA stream, for the device's `start`; None, this PE's own stream, stays None.

    stream : a handle (0 is CUDA's default stream), a torch.cuda.Stream, a CuPy stream, or anything with
        `__cuda_stream__` (cuda.core).
    """
    if stream is None or (type(stream) is int and stream >= 0):
        return stream
    if hasattr(stream, "cuda_stream"):  # torch's
        return int(stream.cuda_stream)
    if hasattr(stream, "__cuda_stream__"):
        told = stream.__cuda_stream__
        version, handle = told() if callable(told) else told
        if version == 0:
            return int(handle)
    elif hasattr(stream, "ptr"):  # CuPy's
        return int(stream.ptr)
    raise InputError(f"{stream!r} is no stream: give a handle, a torch.cuda.Stream, or an object with __cuda_stream__")


def _describe(pe, array, stream) -> Described:
    if isinstance(array, ArrayView):
        try:
            return Described(array.address, array.shape, True, str(array.dtype), pe.device.ordinal)
        except ShmemtpError as error:
            raise InputError(str(error)) from None
    if hasattr(array, "data_ptr"):
        return _torch(array)
    if hasattr(array, "__array_interface__"):
        return _numpy(np.asarray(array))
    if hasattr(array, "__dlpack__"):
        place = place_of(array)
        _check_place(place, pe.device.ordinal)  # before its library is asked to wait
        return Described(*tensor_of(array, pe.device.stream if stream is None else stream), place)
    if hasattr(array, "__cuda_array_interface__"):
        return _cuda(pe.device, array.__cuda_array_interface__)
    raise InputError(f"{type(array).__name__} is no array: it has neither DLPack nor an array interface")


def _torch(tensor) -> Described:
    """Asked directly: quicker than by DLPack, which has no tensors that require a gradient."""
    device = tensor.device
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"this tensor is on {device}: it must be in a GPU's or the host's memory")
    place = device.index if device.type == "cuda" else None
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Described(tensor.data_ptr(), tuple(tensor.shape), tensor.is_contiguous(), dtype, place)


def _numpy(array: np.ndarray) -> Described:
    flags = array.flags
    return Described(array.ctypes.data, array.shape, flags.c_contiguous, str(array.dtype), None, flags.writeable)


def _cuda(device, interface) -> Described:
    """See "CUDA Array Interface" in Numba's manual."""
    (address, read_only), shape, dtype = interface["data"], tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    contiguous = strides is None or is_contiguous(shape, strides, dtype.itemsize)
    place = device.locate(address) if address else device.ordinal
    return Described(address, shape, contiguous, str(dtype), place, not read_only)


def _kind(own: str, told: str | None, symmetric: bool) -> int:
    """The number in KINDS of an array's elements, whose dtype is `own` by itself and `told` by the caller."""
    if told is not None and told not in KINDS:
        raise InputError(f"there is no dtype {told!r} in collectives: choose one of {', '.join(KINDS)}")
    if own == BITS and told is None and not symmetric:
        raise InputError(f"this array is uint16: say what bits it holds, dtype={' or '.join(map(repr, HALVES))}")
    name = (told or HALVES[0]) if own == BITS else own
    if name not in KINDS:
        raise InputError(f"collectives take no {own}: their elements are {', '.join(KINDS)}")
    if told not in (None, name) or (own == BITS and name not in HALVES):
        raise InputError(f"this array is {own}, not {told}")
    return KINDS.index(name)


def _check_place(place: int | None, ordinal: int | None):
    if place == ordinal:
        return
    if ordinal is None:
        raise InputError(f"this array is in the memory of GPU {place}: in the emulator it must be the host's")
    where = "the host's memory" if place is None else f"the memory of GPU {place}"
    raise InputError(f"this array is in {where}: it must be in that of this PE's GPU, {ordinal}")
