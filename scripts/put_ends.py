"""The memory at both ends of bench_put's transfers: filled, poisoned and checked."""

import ctypes

import numpy as np
from inputs import STORED, poison, random, wrong
from pace import INPUTS, OUTPUTS
from put_kernels import Wire

from shmemtp.device.backend import view

LINE_WORDS = 32  # sets begin on 128 bytes


class Ends:
    """What PE 0 and PE 1 send and receive, at most `nbytes` of elements of `type` at once. Collective.

    Each PE has INPUTS sets of random elements, of its own. `distance` is None where the two have no P2P reach.
    """

    COPIES = {"gpu": "cuMemcpyDtoDAsync", "emulator": "memmove"}  # what `start_copy` uses

    def __init__(self, pe, nbytes, type, blocks):
        self._pe, self._dtype = pe, np.dtype(STORED[type])
        self.item_bytes = self._dtype.itemsize
        self._stride = -(-nbytes // 4 // LINE_WORDS) * LINE_WORDS
        self._here = pe.device.array((INPUTS + OUTPUTS) * self._stride, np.uint32)
        self._there = pe.array(INPUTS * self._stride, np.uint32)
        self._signals = pe.array(blocks, np.uint64)
        self._done = pe.device.array(blocks, np.uint32)
        self._other = 0 if pe.rank else 1
        self.distance = None if pe.heap.distances is None else int(pe.heap.distances[self._other])
        count = 4 * INPUTS * self._stride // self.item_bytes
        self._inputs = [random(type, count, [p, 1]).view(np.uint32).reshape(INPUTS, -1) for p in range(2)]
        self._own = self._inputs[min(pe.rank, 1)].ravel()
        self._here.fill(self._own)

    def wire(self, nbytes):
        """The kernels' argument for messages of so many bytes."""
        arrays = self._here, self._there.argument, self._signals.argument, self._done
        return Wire(*arrays, self._other, self.distance or 0, nbytes // 4, self._stride)

    def prepare(self, operation, nbytes):
        """Poisons what will be written; for `get` fills what is fetched. Collective."""
        nothing = poison("float", nbytes // 4).view(np.uint32)
        for out in range(OUTPUTS):
            self._place(self._here.address, INPUTS + out, nbytes).fill(nothing)
            self._place(self._there.address, out, nbytes).fill(nothing)
        if operation == "get":
            self._there.fill(self._own)
        self._signals.fill(np.uint64(0))
        self._pe.barrier()

    def start_copy(self, operation, number, nbytes):
        """PE 0 has the driver copy message `number`, on the device's own stream."""
        turn, out = 4 * self._stride * (number % INPUTS), 4 * self._stride * (number % OUTPUTS)
        here, there = self._here.address, self._there.peer(self._other).address
        target, source = (there + out, here + turn)
        if operation == "get":
            target, source = here + 4 * self._stride * INPUTS + out, there + turn
        if self._pe.backend == "emulator":
            ctypes.memmove(target, source, nbytes)
        else:
            from cuda.bindings import driver

            (status,) = driver.cuMemcpyDtoDAsync(target, source, nbytes, self._pe.device.stream)
            if status != driver.CUresult.CUDA_SUCCESS:
                raise RuntimeError(f"cuMemcpyDtoDAsync: {status.name}")

    def wrong(self, operation, nbytes, rounds, both):
        """How many elements of the last messages of `rounds` are not what was sent, on all PEs. Collective.

        both: whether PE 1 sent messages too.
        """
        count, both = 0, both and self._pe.rank < 2
        for number in range(max(0, rounds - OUTPUTS), rounds):
            turn, out = number % INPUTS, number % OUTPUTS
            if operation == "get":
                base, at, checks = self._here.address, INPUTS + out, self._pe.rank == 0
            else:
                base, at, checks = self._there.address, out, self._pe.rank == 1 or both
            if checks:
                found = self._place(base, at, nbytes).numpy().view(self._dtype)
                sent = self._inputs[self._other][turn, : nbytes // 4].view(self._dtype)
                count += wrong(found, sent)
        return self._pe.comm.allreduce(count)

    def _place(self, base, number, nbytes):
        return view(base + 4 * self._stride * number, nbytes // 4, np.uint32)
