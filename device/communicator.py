"""A communicator: some PEs and the symmetric memory that carries their collectives.

Each block of a kernel has a lane of it, the one of its own index, and talks to the same lane of the other PEs. A lane
counts its exchanges in epochs; the memory of one exchange serves again two epochs later. That is safe because every
exchange has every PE hear from every other: what comes from a PE in epoch k was sent after it had read all of epoch
k - 1, so what is stored in epoch k + 1 meets a slot that has been read. (A packet's tag is the epoch's low 32 bits: a
slot or line that was last written exactly 2^32 exchanges ago, or never before exchange 2^32, would deceive.)

A hop takes about 1400 cycles, so what stands before and after it is kept short: 32-bit numbers where they suffice, and
`while` for what a block's threads share, for a `range` whose step is no constant divides 64-bit numbers first.

`hidden` is not a lane's: vectors in it are read by blocks of every lane, and counted for themselves. There, too, what a
block stores in number k + 1 is stored after all PEs' blocks have read number k - 1, provided that each block has a
share of each vector: a block that has all of number k has heard from every block of every PE, which had ended k - 1.
"""

from collections import namedtuple

from .backend import LINE_WORDS, block_index, check_lane_state, function, int64, sync_block, thread_index, uint32
from .watch import Limits

Communicator = namedtuple(
    "Communicator", "shape rank distances pes slots lines inbox outbox signals hidden epochs watch"
)
Communicator.__doc__ = """A kernel's argument, made by `PE.communicator`, which its blocks open lanes of.

shape: Constants: `rank` (this PE's in the team, known when a kernel is compiled, which then has no branches about its
own packets), `pes` (pes_twice is 2 * pes), `lane_words` (2), `lanes`, `packets` (of a lane and sender in an exchange, a
multiple of RUN), `lines` (likewise, of 15 packets each), `put` (NVSHMEM's put_signal in place of packets),
`two_shot_bytes` and `line_bytes` (longer messages go in two shots, in lines), `hidden_packets` (of a vector that is
normalised), `kept` (of them by a thread; kept_words is 2 * kept, kept_values 4 * kept), `warp_turns` (in which a warp
reads a word of each).
rank: the same, as a number. distances: a table, heap distances by rank; pes: int64 [pes], world numbers.
slots, lines, inbox, outbox, signals: symmetric. uint32 [2 parities, 2 phases, senders, packets / RUN, lanes, RUN, 4
words], uint32 [2 parities, 2 phases, senders, lines, lanes, LINE_WORDS], uint32 [2 parities, 2 phases,
senders, lanes, packets, 2 words], uint32 [receivers, lanes, packets, 2 words], uint64 [PHASES, senders, lanes].
hidden: symmetric, uint32 [2 parities, senders, hidden_packets, 4 words]: vectors that all blocks of a PE read.
epochs: int64 [2 * lanes + 1]: each lane's next exchange, each lane's next `hidden`, what `sync_grid` counts
blocks with. watch: the limit of waits.
"""
Lane = namedtuple("Lane", "shape rank distances pes slots lines inbox outbox signals hidden epochs watch epoch_of wait")
Lane.__doc__ = """The communicator as a block's kernel opened it. epoch_of: its next epochs, at hand. wait: they are not
yet, and the kernel's only collective waits for the kernel before and reads them, as late as it can (`rounds.enter`)."""

FIRST, SECOND, MEETING, BARRIER_ALL = range(4)  # phases: a collective's two shots, and what signals alone serve
PHASES = 4
RUN_BITS = 3
RUN = 1 << RUN_BITS  # packets that stand and are dealt together: a line of the cache
PLACE_BITS = 4
PLACES = 1 << PLACE_BITS  # in a line that arrives whole: each a packet's data, but for the last, its tag
EXCHANGE, SHOWN = range(2)  # what a lane counts: its exchanges, and the vectors in `hidden`


@function
def open_lane(comm, state):
    """The calling block's lane, which collectives take: how a kernel begins, once, with all threads (block).

    state: int64 `local(comm.shape.lane_words)`; there epochs stay in registers.
    """
    check_lane_state(state.size >= comm.shape.lane_words)
    lane = prepare_lane(comm, state)
    read_epochs(lane)
    return lane


@function
def prepare_lane(comm, state, wait=False):
    """The part of `open_lane` that reads no memory: an earlier kernel need not have ended for it (block).

    wait: see Lane.
    """
    return Lane(
        comm.shape,
        comm.shape.rank,
        comm.distances,
        comm.pes,
        comm.slots,
        comm.lines,
        comm.inbox,
        comm.outbox,
        comm.signals,
        comm.hidden,
        comm.epochs,
        comm.watch,
        state,
        wait,
    )


@function
def read_epochs(lane):
    """The rest of `open_lane` (block)."""
    for count in range(2):
        lane.epoch_of[count] = lane.epochs[count * lane.shape.lanes + block_index()]


@function
def next_epoch(lane, count):
    """The next epoch of what the lane counts, the same for the block's threads (thread)."""
    return lane.epoch_of[count]


@function
def begin(lane, count):
    """The next epoch; what the block's threads wrote can be sent, what they read can be overwritten (block)."""
    sync_block()
    return next_epoch(lane, count)


@function
def finish(lane, count, epoch):
    """Ends an epoch once all threads have read what it brought; what they wrote can be read by the block (block)."""
    record(lane, count, epoch)
    close(lane, count, epoch)


@function
def record(lane, count, epoch):
    """Leaves word of the epoch after this one, for kernels after this one (block).

    At any time in `epoch` once all threads have it, so behind a `sync_block` behind `read_epochs`; while the epoch's
    data are on their way, nothing waits for it.
    """
    if thread_index() == 0:
        lane.epochs[count * lane.shape.lanes + block_index()] = epoch + 1


@function
def close(lane, count, epoch):
    """`finish` of an epoch that is recorded already (block)."""
    sync_block()
    lane.epoch_of[count] = epoch + 1


@function
def limits_of(comm):
    return Limits(comm.watch, comm.rank)


@function
def slot_place(lane, epoch, phase, sender, number):
    """Which of all slots is that of packet `number` of a sender (thread).

    The lanes' runs stand side by side, in few slices of the L2: spread over a megabyte, some lay in the slice of a
    word that many blocks polled (a barrier's), and their blocks waited four times as long.
    """
    runs = lane.shape.packets >> RUN_BITS  # of a sender
    run = _place_of(lane.shape, epoch, phase, sender, runs, number >> RUN_BITS)
    return run << RUN_BITS | number & (RUN - 1)


@function
def line_place(lane, epoch, phase, sender, number):
    """The word of `lines` where the line of a sender's packet `number` begins (thread)."""
    return _place_of(lane.shape, epoch, phase, sender, lane.shape.lines, number >> PLACE_BITS) * LINE_WORDS


@function
def _place_of(shape, epoch, phase, sender, count, number):
    """This lane's place among all lanes' `number`-th of a sender's `count` (thread)."""
    row = uint32(uint32(phase) * uint32(shape.pes) + uint32(sender))
    place = uint32(uint32(row * uint32(count) + uint32(number)) * uint32(shape.lanes) + uint32(block_index()))
    return int64(epoch & 1) * (2 * shape.pes * shape.lanes * count) + int64(place)  # the epoch may be known last


@function
def box_place(lane, epoch, phase, sender, number):
    """The same in the inbox, where what is put at once stands together."""
    shape = lane.shape
    row = (((epoch & 1) * 2 + phase) * shape.pes + sender) * shape.lanes + block_index()
    return row * shape.packets + number


@function
def hidden_place(lane, shown, sender, packet):
    """The word of `hidden` where packet `packet` of a sender's vector begins (thread)."""
    row = (shown & 1) * lane.shape.pes + sender
    return 4 * (row * lane.shape.hidden_packets + packet)


@function
def signal_place(comm, phase, sender):
    return (phase * comm.shape.pes + sender) * comm.shape.lanes + block_index()
