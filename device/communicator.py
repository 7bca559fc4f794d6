"""A communicator: some PEs and the symmetric memory that carries their collectives.

Each block of a kernel has a lane of it, the one of its own index, and talks to the same lane of the other PEs. A lane
counts its exchanges in epochs; the memory of one exchange serves again two epochs later. That is safe because every
exchange has every PE hear from every other: what comes from a PE in epoch k was sent after it had read all of epoch
k - 1, so what is stored in epoch k + 1 meets a slot that has been read.
"""

from collections import namedtuple

from .backend import block_index, function, int64, sync_block, thread_index, uint32
from .watch import Limits

Communicator = namedtuple("Communicator", "shape rank distances pes slots inbox outbox signals hidden epochs watch")
Communicator.__doc__ = """What collectives take first: a kernel's argument, made by `PE.communicator`.

shape: Constants: `pes` (pes_twice is 2 * pes), `lanes`, `packets` (of a lane and sender in one exchange), `put`
(NVSHMEM's put_signal in place of packets), `hidden_packets`, `two_shot_bytes` (longer messages go in two shots).
rank: this PE's in the team. distances, pes: int64 [pes], heap distance and world number by rank.
slots, inbox, outbox, signals: symmetric. uint32 [2 parities, 2 phases, senders, lanes, packets, 4 words], the same with
2 words, uint32 [receivers, lanes, packets, 2 words], uint64 [PHASES, senders, lanes].
hidden: uint32 [2 parities, hidden_packets, 4 words], what this PE's blocks tell each other.
epochs: int64 [2 * lanes + 2]: each lane's next exchange, each lane's next `hidden`, how many blocks are in `sync_grid`,
how often they have met there. watch: the limit of waits.
"""
FIRST, SECOND, MEETING, BARRIER_ALL = range(4)  # phases: a collective's two shots, and what signals alone serve
PHASES = 4


@function
def limits_of(comm):
    return Limits(comm.watch, comm.rank)


@function
def with_distances(comm, near):
    """`comm` whose distances stand in `near`, int64 `local(pes)`: in registers, for a kernel that begins with it."""
    for p in range(comm.shape.pes):
        near[p] = comm.distances[p]
    return Communicator(
        comm.shape,
        comm.rank,
        near,
        comm.pes,
        comm.slots,
        comm.inbox,
        comm.outbox,
        comm.signals,
        comm.hidden,
        comm.epochs,
        comm.watch,
    )


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
