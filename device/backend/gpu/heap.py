"""The symmetric heap on GPUs: NVSHMEM, bootstrapped over MPI. The contract is in ../README.md."""

import contextlib
import glob
import io
import logging
import os

import numpy as np
import nvshmem.core as nvshmem
from cuda.bindings import driver
from cuda.core import Device as CudaDevice

from shmemtp.errors import ShmemtpError

from .current import enter
from .errors import check

NVSHMEM_STATE = b"nvshmemi_device_state_d"  # a cubin that names it calls NVSHMEM


def attach_library(handle):
    """Gives a loaded module that calls NVSHMEM its device state."""
    nvshmem.library_init(nvshmem.NvshmemKernelObject.from_handle(handle))


def detach_library(handle):
    nvshmem.library_finalize(nvshmem.NvshmemKernelObject.from_handle(handle))


@contextlib.contextmanager
def _chatter_to_log():
    """nvshmem4py prints its progress to standard error: here to the log, where --verbose shows it."""
    chatter = io.StringIO()
    try:
        with contextlib.redirect_stderr(chatter):
            yield
    finally:
        for line in chatter.getvalue().splitlines():
            logging.getLogger("shmemtp").debug("NVSHMEM: %s", line)


class Heap:
    """Symmetric memory of all PEs of `comm`.

    `bootstrap` is "unique-id" (NVSHMEM's unique id broadcast over mpi4py: any MPI) or "mpi" (NVSHMEM's MPI plugin: Open
    MPI's ABI). `distances[pe]` is what to add to one's own address to reach that PE's copy; None without P2P reach.
    """

    def __init__(self, device, comm, bootstrap="unique-id"):
        self.comm, self._buffers = comm, {}
        method = {"unique-id": "emulated_mpi", "mpi": "mpi"}[bootstrap]
        os.environ.setdefault("NVSHMEM_DISABLE_NVLS", "1")  # multicast is not used here
        if not glob.glob("/dev/infiniband/uverbs*"):
            os.environ.setdefault("NVSHMEM_REMOTE_TRANSPORT", "none")  # which it would find out loudly
        with _chatter_to_log():
            nvshmem.init(device=CudaDevice(device.cuda.device_id), mpi_comm=comm, initializer_method=method)
        self.distances = self._measure_distances()

    def _measure_distances(self):
        probe = nvshmem.buffer(128)
        mine = int(probe.handle)
        distances = np.zeros(self.comm.size, np.int64)
        reach = True
        for pe in range(self.comm.size):
            if pe != self.comm.rank:
                try:
                    distances[pe] = int(nvshmem.get_peer_buffer(probe, pe).handle) - mine
                except Exception:  # nvshmem4py raises several types for "no direct path"
                    reach = False
        self.comm.Barrier()
        nvshmem.free(probe)
        return distances if all(self.comm.allgather(reach)) else None

    def allocate(self, nbytes):
        """Collective: the same number of bytes on every PE. Returns this PE's address of zeroed memory."""
        enter()
        try:
            buffer = nvshmem.buffer(max(128, nbytes))
        except nvshmem.NvshmemError as error:
            raise ShmemtpError(f"the symmetric heap has no room for {nbytes} bytes ({error})") from error
        address = int(buffer.handle)
        self._buffers[address] = buffer
        check(driver.cuMemsetD8(address, 0, max(128, nbytes)))
        check(driver.cuStreamSynchronize(0))  # a memset is not waited for
        self.comm.Barrier()  # nobody stores into memory that its owner still clears
        return address

    def free(self, address):
        """Collective."""
        enter()
        nvshmem.free(self._buffers.pop(address))

    def close(self):
        """Collective: frees what is left and leaves NVSHMEM."""
        for address in list(self._buffers):
            self.free(address)
        enter()
        nvshmem.finalize()
