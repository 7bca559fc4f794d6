"""The symmetric heap: one MPI shared-memory window, every PE's part at a fixed distance from one's own."""

import ctypes
import os

import numpy as np

from shmemtp.errors import ShmemtpError

from .buffers import LINE
from .launch import abort_all

DEFAULT_BYTES = 256 << 20


class Heap:
    """The symmetric heap of the PEs of `comm`, all of them on one host.

    Parameters
    ----------
    device : Device
        Its launches learn the distances and where the heap is from here.
    comm : mpi4py.MPI.Comm
        All PEs; creating and closing the heap is collective over it.

    Attributes
    ----------
    distances : numpy.ndarray
        int64 per PE: bytes from one's own copy of a symmetric array to that PE's; 0 for oneself.

    Raises
    ------
    ShmemtpError
        On every PE, when they do not share one host's memory, or it cannot hold the heaps, or SHMEMTP_HEAP_BYTES (bytes
        of each PE's heap, default 256 MiB) is no size.
    """

    def __init__(self, device, comm):
        from mpi4py import MPI  # not before: importing it starts MPI

        self.nbytes = _heap_bytes()
        self._comm = comm
        self._node = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
        if comm.allreduce(self._node.size, MPI.MIN) < comm.size:
            self._node.Free()
            raise ShmemtpError(f"the emulator's {comm.size} PEs must run on one host, where they can share memory")
        try:
            self._window = MPI.Win.Allocate_shared(self.nbytes + LINE, 1, comm=self._node)
        except MPI.Exception as error:
            raise ShmemtpError(
                f"the host has no shared memory (/dev/shm) for {comm.size} symmetric heaps of {self.nbytes} bytes; "
                "SHMEMTP_HEAP_BYTES sets their size"
            ) from error
        bases = [self._window.Shared_query(pe)[0] for pe in range(comm.size)]
        starts = np.array([-(-_base_address(base) // LINE) * LINE for base in bases], np.int64)
        self._start = int(starts[comm.rank])
        self.distances = starts - self._start
        self._free = [(self._start, self.nbytes)]  # (address, bytes), by address
        self._taken = {}
        self._touched = self._start  # fresh pages are zero: only what was handed out before needs zeroing
        device.distances, device.heap = self.distances, (self._start, self.nbytes)

    def allocate(self, nbytes):
        """Takes `nbytes` zeroed bytes on a 128-byte line; collective, the same size on every PE.

        Returns the address of this PE's copy. Raises ShmemtpError when the heap has no such room.
        """
        size = max(-(-nbytes // LINE), 1) * LINE
        fits = next((i for i, (_, room) in enumerate(self._free) if room >= size), None)
        if fits is None:
            left = sum(room for _, room in self._free)
            raise ShmemtpError(
                f"the symmetric heap cannot hold {nbytes} more bytes: {left} of {self.nbytes} are free; "
                "SHMEMTP_HEAP_BYTES sets its size"
            )
        address, room = self._free.pop(fits)
        if room > size:
            self._free.insert(fits, (address + size, room - size))
        self._taken[address] = size
        self._comm.Barrier()  # nobody still writes to what stood here
        if address < self._touched:
            ctypes.memset(address, 0, min(size, self._touched - address))
        self._touched = max(self._touched, address + size)
        self._comm.Barrier()  # nobody writes before it is zero
        return address

    def free(self, address):
        """Gives memory back; every PE does, in the same order."""
        if address not in self._taken:
            raise ShmemtpError(f"{address:#x} is no array of the symmetric heap, or was freed before")
        self._free = _joined(sorted([*self._free, (address, self._taken.pop(address))]))

    def close(self):
        """Frees the window; collective. Kernels that still run are ended first: they may use the heap."""
        if self._window is not None:
            abort_all()
            self._window.Free()
            self._node.Free()
            self._window = None


def _heap_bytes():
    text = os.environ.get("SHMEMTP_HEAP_BYTES", str(DEFAULT_BYTES))
    if not text.isdecimal() or int(text) < LINE:
        raise ShmemtpError(f"SHMEMTP_HEAP_BYTES is {text!r}; it must be a number of bytes, at least {LINE}")
    return int(text) // LINE * LINE


def _base_address(buffer):
    return np.frombuffer(buffer, np.uint8).ctypes.data


def _joined(blocks):
    """Neighbours become one block."""
    joined = blocks[:1]
    for address, room in blocks[1:]:
        last, before = joined[-1]
        if last + before == address:
            joined[-1] = (last, before + room)
        else:
            joined.append((address, room))
    return joined
