"""Symmetric arrays: the same shape and dtype on every PE, at an address that peers can reach."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .agreement import agree
from .errors import InputError, ShmemtpError

if TYPE_CHECKING:
    from .runtime import PE

__all__ = ["ArrayView", "SymmetricArray"]


class ArrayView:
    """One PE's copy of a symmetric array, read and written from this process.

    `shape` is a tuple, `dtype` NumPy's, `nbytes` the size of one copy, `address` this process's address of it, and
    `argument` what a kernel takes. On the GPU it has `__cuda_array_interface__`, in the emulator `__array_interface__`,
    on both `__dlpack__`: torch, CuPy, JAX and NumPy use the memory with no copy. Using it after the array was freed
    raises ShmemtpError.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int
    _address: int
    _argument: Any

    def __init__(self, pe: "PE", array: "SymmetricArray", address: int):
        self._pe, self._array = pe, array
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes
        self._point_to(address)

    def _point_to(self, address):
        from .device.backend import view

        self._address, self._argument = address, view(address, self.shape, self.dtype)

    def _alive(self):
        if self._array.freed:
            raise ShmemtpError(f"this symmetric array ({_spell(self.shape, self.dtype)}) was freed")
        return self

    @property
    def address(self) -> int:
        return self._alive()._address

    @property
    def argument(self):
        return self._alive()._argument

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        return np.array(self.argument.numpy()).reshape(self.shape)

    def fill(self, values):
        """Copies `values` (anything that broadcasts to the shape) into this memory; returns when it is there."""
        values = np.broadcast_to(np.asarray(values), self.shape).astype(self.dtype, casting="same_kind")
        self.argument.fill(np.ascontiguousarray(values))

    def _interface(self, backend):
        if self._pe.backend != backend:
            raise AttributeError(f"a symmetric array of the {self._pe.backend} backend is not in that kind of memory")
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3}

    @property
    def __cuda_array_interface__(self):
        return self._interface("gpu")

    @property
    def __array_interface__(self):
        return self._interface("emulator")

    def __dlpack_device__(self) -> tuple[int, int]:
        """(kDLCUDA, device) on the GPU, (kDLCPU, 0) in the emulator."""
        return self._exporter().__dlpack_device__()

    def __dlpack__(self, **options):
        return self._exporter().__dlpack__(**options)

    def _exporter(self):
        if self._pe.backend == "emulator":
            return np.asarray(self)
        from .device.backend.gpu.export import exporter

        return exporter(self.address, self.nbytes, self.shape, self.dtype, owner=self)

    def __repr__(self):
        state = ", freed" if self._array.freed else ""
        return f"{type(self).__name__}({_spell(self.shape, self.dtype)}, PE {self._pe.rank} of {self._pe.size}{state})"


class SymmetricArray(ArrayView):
    """Memory of the symmetric heap, zeroed. Made by `PE.array(shape, dtype)`, which all PEs call.

    As a context manager it is freed at the end of the block. `free` is collective too; it is left to the closing PE
    when an exception ends the block, since the other PEs may not be on their way out.
    """

    def __init__(self, pe: "PE", shape, dtype):
        self.shape, self.dtype, self.nbytes = _agree_on_size(pe.comm, shape, dtype)
        self._pe, self._array, self._freed = pe, self, False
        try:
            address = pe.heap.allocate(max(self.nbytes, 1))
        except ShmemtpError:
            raise
        except Exception as error:  # each backend has its own for a full heap
            raise ShmemtpError(
                f"the symmetric heap has no room for {_spell(self.shape, self.dtype)}: {error}"
            ) from error
        self._point_to(address)

    @property
    def freed(self) -> bool:
        return self._freed or self._pe.closed

    def peer(self, pe: int) -> ArrayView:
        """PE `pe`'s copy of this array, through P2P memory; ShmemtpError where that PE is out of such reach."""
        distances = self._pe.heap.distances
        if not 0 <= pe < self._pe.size:
            raise InputError(f"there is no PE {pe}: this job has PE 0 to {self._pe.size - 1}")
        if pe != self._pe.rank and distances is None:
            raise ShmemtpError(f"PE {self._pe.rank} does not reach the memory of PE {pe} directly: put and get do")
        return ArrayView(self._pe, self, self.address + (int(distances[pe]) if distances is not None else 0))

    def free(self):
        """Collective: gives the memory back. Freeing twice does nothing."""
        if not self.freed:
            self._freed = True
            self._pe.heap.free(self._address)

    def __enter__(self):
        self._alive()
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            self.free()


def _agree_on_size(comm, shape, dtype):
    """(shape, dtype, nbytes), the same on all PEs; one that asks for nonsense has the others hear of it too."""
    try:
        shape = tuple(int(n) for n in (shape if np.iterable(shape) else (shape,)))
        if str(dtype) == "bfloat16":  # which NumPy knows where another library has told it
            raise ValueError("kernels take it as uint16, its bits")
        dtype = np.dtype(dtype)
        if min(shape, default=0) < 0 or dtype.hasobject:
            raise ValueError("lengths must not be negative, elements must be plain numbers")
        wish, problem = _spell(shape, dtype), None
    except (TypeError, ValueError) as error:
        wish, problem = f"{shape} {dtype}", error
    try:
        agree(comm, "symmetric arrays", wish)
    except InputError as error:
        told = str(error).replace("PEs were started with", "PEs allocate")
        raise InputError(told) from None
    if problem is not None:
        raise InputError(f"no symmetric array can be {wish}: {problem}")
    return shape, dtype, math.prod(shape) * dtype.itemsize


def _spell(shape, dtype):
    return f"{math.prod(shape) * dtype.itemsize} bytes ({dtype.name}{list(shape)})"
