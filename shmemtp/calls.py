"""Launches of collectives, put together at the first call of their kind and repeated after that."""

from typing import TYPE_CHECKING

import numpy as np

from .agreement import Agreement, agree
from .algorithm import Choice
from .channel import Channel
from .errors import ShmemtpError
from .foreign import KINDS, Borrowed
from .kernels import wait_for

if TYPE_CHECKING:
    from .runtime import PE, Team

__all__ = ["CLUSTER", "Calls"]

ANY_LENGTH = 1 << 32  # of the arrays that kernels are told of: a prepared call is started for others, too
ALIGNMENT = 16  # bytes: where a kernel's array begins, its elements some way behind
CARRIERS = (np.float32, np.uint16, np.uint16, np.int32)  # of the kinds, as kernels take them
ROW_BLOCK = 512  # threads of a block that does a vector alone: they keep one of 16 KiB
CLUSTER, CLUSTER_BLOCK = 8, 128  # blocks that share a vector, and their threads
FIRST_ARRAY = 2  # position among a kernel's arguments; before it, the kind and the communicator


class Calls:
    """A channel's kernels (device/calls.py), by the team's PEs in the same order."""

    def __init__(self, pe: "PE", team: "Team", channel: Channel, choice: Choice):
        self._pe, self._team, self._channel, self._choice = pe, team, channel, choice
        self._together = Agreement(team.comm)
        self._prepared: dict = {}
        self._compiled: dict = {}

    def call(self, name: str, arrays: tuple[Borrowed, ...], numbers: tuple, nbytes: int, stream: int | None):
        """Starts kernel `name` on arrays, of one kind, and numbers; waits for it where there is no stream to wait in.

        nbytes : of the message, by which its algorithm and launch are chosen.
        """
        key = (name, arrays[0].kind, *numbers)
        prepared = self._prepared.get(key) or self._first(key, arrays, numbers, nbytes, stream)
        changes = {}
        for n, array in enumerate(arrays):
            position = FIRST_ARRAY + 2 * n
            changes[position], changes[position + 1] = _base(array)
        launch = prepared.start(stream, changes)
        if stream is None or self._pe.backend == "emulator":
            wait_for(launch, self._pe.watchdog)
            self._channel.check(name)

    def _first(self, key, arrays, numbers, nbytes, stream):
        """The same on all PEs of the team, or an error on all."""
        name, kind = key[:2]
        with self._together:
            if self._pe.device.capturing(stream):
                raise ShmemtpError(f"the first {name} of its kind compiles: call it once before the capture")
            told = f"{name} of {KINDS[kind]}, {', '.join(map(str, numbers))}"
            agree(self._team.comm, "collectives", told, "called")
            prepared = self._prepare(name, kind, arrays, numbers, nbytes)
        self._prepared[key] = prepared  # on all PEs, or on none
        return prepared

    def _prepare(self, name, kind, arrays, numbers, nbytes):
        from .device import calls
        from .device.backend import Constants, view
        from .device.sums import FEW

        device, (grid, block) = self._pe.device, self._launch(name, numbers, nbytes)
        args, shared_bytes, cluster = [Constants(kind=kind), self._channel.argument], 4 * max(FEW, block), None
        if name == "all_reduce_norm_clusters":
            args[0], cluster = Constants(kind=kind, blocks=CLUSTER), CLUSTER
            shared_bytes += 16 + 16 * CLUSTER  # a box of a pair from each
        for array in arrays:
            base, start = _base(array)
            args += [view(base, ANY_LENGTH, CARRIERS[kind]), start]
        args += [np.float32(number) if isinstance(number, float) else number for number in numbers]
        if (name, kind, block) not in self._compiled:
            self._compiled[name, kind, block] = device.compile(getattr(calls, name), tuple(args), block=block)
        compiled = self._compiled[name, kind, block]
        options = dict(shared_bytes=shared_bytes, cluster=cluster, together=False, early=True)
        return device.prepare(compiled, grid, block, tuple(args), **options)

    def _launch(self, name, numbers, nbytes):
        """Blocks and their threads. A block does 64 bytes at least: a line of packets, of 8 bytes each."""
        _, grid, block = self._choice.row(nbytes)
        if name == "all_reduce_norm_rows":
            return min(numbers[1], self._channel.extent.lanes), ROW_BLOCK if self._pe.backend == "gpu" else 1
        if name == "all_reduce_norm_clusters":
            return numbers[1] * CLUSTER, CLUSTER_BLOCK if self._pe.backend == "gpu" else 1
        return max(1, min(grid, self._channel.extent.lanes, nbytes // 64)), block

    def free(self):
        """Collective over the team."""
        self._together.free()


def _base(array: Borrowed) -> tuple[int, int]:
    """Where the kernel's array begins, and which of its elements is the first one meant."""
    behind = array.address % ALIGNMENT
    return array.address - behind, behind // np.dtype(CARRIERS[array.kind]).itemsize
