"""The symmetric memory that carries a team's collectives, and the record by which kernels use it."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .algorithm import NEVER
from .errors import ShmemtpError
from .product import round_up

if TYPE_CHECKING:
    from .runtime import PE, Team

__all__ = ["Channel", "Extent"]


KEPT = 4  # packets of a vector that a GPU's thread keeps in registers
MOST_WARPS = 64  # of a block, in the emulator
PACKETS_OF_A_LINE = {"gpu": 8, "emulator": 32}  # so many of a lane give room for one line: memory is dearer there


class Extent(NamedTuple):
    """How much a channel carries at once: `lanes`, one for each block of a kernel, and `packets` of 8 bytes of data
    from each PE in one exchange of a lane. `put`: by NVSHMEM's put_signal instead of packets. `hidden_packets`: of a
    vector that is normalised. Messages of `line_bytes` or more go in lines (NEVER: none). `threads` of a block
    take part, its first ones; 0: all."""

    lanes: int
    packets: int
    put: bool
    hidden_packets: int = 1
    line_bytes: int = NEVER
    threads: int = 0

    @property
    def lines(self) -> int:
        """How many a lane takes from each PE in one exchange: whole groups of those that are stored at once."""
        from .device.backend import LINE_THREADS, NAME
        from .device.communicator import PLACES

        if self.put or self.line_bytes == NEVER:
            return 0
        return round_up(max(1, self.packets // PACKETS_OF_A_LINE[NAME]), max(1, LINE_THREADS // PLACES))

    def sizes(self, pes: int) -> dict[str, int]:
        """Elements of the symmetric arrays of `device.communicator.Communicator`; one that is not used has one."""
        from .device.backend import LINE_WORDS
        from .device.communicator import PHASES

        packets = 4 * pes * self.lanes * self.packets  # two parities, two phases
        return {
            "slots": 1 if self.put else 4 * packets,
            "lines": 4 * pes * self.lanes * self.lines * LINE_WORDS if self.lines else 1,
            "inbox": 2 * packets if self.put else 1,
            "outbox": 2 * pes * self.lanes * self.packets if self.put else 1,
            "signals": PHASES * pes * self.lanes,
            "hidden": 2 * pes * self.hidden_packets * 4,  # two parities
        }


class Channel:
    """What one kernel at a time communicates through. Collective over all PEs, though a team may use it.

    `argument` is the device's record (device/communicator.py), a kernel's argument. Two channels are independent: two
    kernels may run at the same time, each with its own. `check(kernel)` raises what a wait of a kernel ran out on.
    """

    def __init__(self, pe: "PE", team: "Team", extent: Extent, two_shot_bytes: int):
        from .device.backend import Constants
        from .device.communicator import Communicator

        self.extent, self._freed, self._pe = extent, False, pe
        self.watch = pe.watch(team)
        sizes = extent.sizes(team.size)
        largest = np.max(pe.comm.allgather(tuple(sizes.values())), axis=0)  # the heap is one of all PEs: teams differ
        kinds = {"signals": np.uint64}
        self._arrays = {
            name: pe.array(int(count), kinds.get(name, np.uint32)) for name, count in zip(sizes, largest, strict=True)
        }
        self._pes = pe.device.array(team.size, np.int64)
        self._pes.fill(np.array(team.pes, np.int64))
        distances = pe.device.table([0] * team.size if team.distances is None else team.distances)
        self._epochs = pe.device.array(2 * extent.lanes + 1, np.int64)
        self.set_epochs(1)  # cleared slots hold epoch 0
        kept, warp_turns = KEPT, 1
        if pe.backend == "emulator":  # a block may be one thread, a warp too
            kept, warp_turns = round_up(extent.hidden_packets, KEPT), MOST_WARPS
        shape = Constants(
            kept=kept,
            kept_words=2 * kept,
            kept_values=4 * kept,
            warp_turns=warp_turns,
            rank=team.rank,
            pes=team.size,
            pes_twice=2 * team.size,
            lane_words=2,
            lanes=extent.lanes,
            packets=extent.packets,
            lines=extent.lines,
            hidden_packets=extent.hidden_packets,
            put=extent.put,
            threads=extent.threads,
            two_shot_bytes=two_shot_bytes,
            line_bytes=extent.line_bytes if extent.lines else NEVER,
        )
        symmetric = (self._arrays[name].argument for name in ("slots", "lines", "inbox", "outbox", "signals", "hidden"))
        own = (self._epochs, self.watch.argument)
        self._record = Communicator._make((shape, team.rank, distances, self._pes, *symmetric, *own))

    @property
    def lanes(self) -> int:
        """The most blocks that a kernel can have which uses it."""
        return self.extent.lanes

    @property
    def argument(self):
        if self._freed or self._pe.closed:
            raise ShmemtpError("this communicator was freed")
        return self._record

    def set_epochs(self, epoch: int):
        """Every lane's next exchange is number `epoch`. On all PEs, while no kernel uses it."""
        self._epochs.fill(np.array([epoch] * 2 * self.extent.lanes + [0], np.int64))

    def check(self, kernel: str):
        self.watch.check(kernel)

    def free(self):
        """Collective. Gives the memory back when no kernel of any PE uses it; doing it twice does nothing."""
        if not (self._freed or self._pe.closed):
            self._freed = True
            self._pe.device.finish()
            self._pe.comm.Barrier()
            for array in self._arrays.values():
                array.free()
