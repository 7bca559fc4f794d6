"""DLPack tensors of other libraries, read as they stand in memory: bfloat16 too, which NumPy cannot hold.

The layout is that of dlpack.h (DLManagedTensor). The capsule is only looked at, never taken: it ends here, and the
array that gave it keeps the memory.
"""

import ctypes

from .errors import InputError

__all__ = ["is_contiguous", "place_of", "tensor_of"]

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}  # DLDataTypeCode
DEFAULT_STREAM = 1  # how DLPack spells CUDA's handle 0


class DLTensor(ctypes.Structure):
    """`strides` counts elements and is null where the tensor is C-contiguous."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def place_of(array) -> int | None:
    """The ordinal of the GPU whose memory an object with `__dlpack__` lies in; None for the host's."""
    device_type, ordinal = array.__dlpack_device__()
    if device_type in (CUDA, CUDA_MANAGED):
        return int(ordinal)
    if device_type not in (CPU, CUDA_HOST):
        raise InputError(f"this array is on a device of DLPack's type {int(device_type)}: neither a GPU nor the host")
    return None


def tensor_of(array, stream: int | None) -> tuple[int, tuple[int, ...], bool, str]:
    """(address, shape, contiguous, dtype's name) of an object with `__dlpack__`.

    stream : the handle of the stream that will use a GPU's memory, which its library has wait for the data; None for
        memory of the host.
    """
    try:
        capsule = array.__dlpack__(stream=None if stream is None else stream or DEFAULT_STREAM)
    except (BufferError, RuntimeError) as error:
        raise InputError(f"{type(array).__name__} does not lend its memory: {error}") from error
    tensor = DLTensor.from_address(_pointer_of(capsule, b"dltensor"))
    shape = tuple(tensor.shape[: tensor.ndim])
    contiguous = not tensor.strides or is_contiguous(shape, tensor.strides[: tensor.ndim])
    dtype = f"{CODES.get(tensor.code, f'code {tensor.code}, bits ')}{tensor.bits}"
    if tensor.lanes != 1:
        dtype += f"x{tensor.lanes}"
    return (tensor.data or 0) + tensor.byte_offset, shape, contiguous, dtype


def is_contiguous(shape, strides, step=1) -> bool:
    """Whether strides are those of a C-contiguous array; `step` is that of neighbouring elements."""
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != step:
            return 0 in shape
        step *= length
    return True
