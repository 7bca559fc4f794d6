"""A communicator: some PEs and the symmetric memory that carries their collectives.

Each block of a kernel has a lane of it, the one of its own index, and talks to the same lane of the other PEs. A lane
counts its exchanges in epochs; the memory of one exchange serves again two epochs later. That is safe because every
exchange has every PE hear from every other: what comes from a PE in epoch k was sent after it had read all of epoch
k - 1, so what is stored in epoch k + 1 meets a slot that has been read.
"""

from collections import namedtuple

from .backend import block_index, function, int64, sync_block, thread_index, uint32
from .watch import Limits

Communicator = namedtuple("Communicator", "shape rank distances pes slots inbox outbox signals epochs watch")
Communicator.__doc__ = """What collectives take first: a kernel's argument, made by `PE.communicator`.

shape: Constants: `pes` (pes_twice is 2 * pes), `lanes`, `packets` (of a lane and sender in one exchange), `put`
(NVSHMEM's put_signal in place of packets), `two_shot_bytes` (from this size on messages go in two shots).
rank: this PE's in the team. distances, pes: int64 [pes], heap distance and world number by rank. Symmetric:
slots: uint32 [2 parities, 2 phases, senders, lanes, packets, 4 words]; inbox: uint32 [2 parities, 2 phases, senders,
lanes, packets, 2 words]; outbox: uint32 [receivers, lanes, packets, 2 words]; signals: uint64 [PHASES, senders, lanes].
epochs: int64 [lanes + 2], each lane's next epoch, then how many blocks `sync_grid` has and how often they met.
watch: the limit of waits.
"""
FIRST, SECOND, MEETING, BARRIER_ALL = range(4)  # phases: a collective's two shots, and what signals alone serve
PHASES = 4


@function
def limits_of(comm):
    return Limits(comm.watch, comm.rank)


@function
def begin(comm):
    """Begins an exchange of the block's lane; what the block's threads wrote can be sent (block). Returns its epoch."""
    sync_block()
    return comm.epochs[block_index()]


@function
def finish(comm, epoch):
    """Ends an exchange once all threads have read it; what they wrote can be read by the block (block)."""
    sync_block()
    if thread_index() == 0:
        comm.epochs[block_index()] = epoch + 1


@function
def place(comm, epoch, phase, sender, number):
    """Where packet `number` of a sender stands, counted in packets: the same in slots and inbox (thread)."""
    shape = comm.shape
    row = (((epoch & 1) * 2 + phase) * shape.pes + sender) * shape.lanes + block_index()
    return row * shape.packets + number


@function
def signal_place(comm, phase, sender):
    return (phase * comm.shape.pes + sender) * comm.shape.lanes + block_index()


@function
def divide_up(count, parts):
    """count / parts, rounded up; both below 2^31: a 64-bit division takes long on a GPU."""
    return int64(uint32(count + parts - 1) // uint32(parts))


@function
def share(count, part, parts):
    """The first of `count` things that part `part` of `parts` does, and the one after its last."""
    each = divide_up(count, parts)
    first = min(count, part * each)
    return first, min(count, first + each)
