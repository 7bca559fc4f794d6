"""Data between the blocks of a cluster, in each other's shared memory: a hop that does not go through the L2.

Each block has a box, into which the blocks of its cluster send pairs of words; an mbarrier counts the bytes that come.
Boxes are used in turns, of which each has two parities' memory and mbarrier. A block sends in turn k + 1 only after it
has all of turn k, and in each turn every block of the cluster sends something to every other. So what comes in turn
k + 2 was sent after all of them had sent in turn k + 1, and that they do when they have read turn k.

A block that leaves the kernel no longer has a box. One that ends its last turn has all that was sent to it; a kernel
that leaves when a wait ran out (`has_expired`), not all blocks after the same turn, ends with `sync_cluster`.
"""

from collections import namedtuple

from .backend import (
    as_bits,
    as_float32,
    barrier_expect,
    barrier_init,
    cluster_rank,
    float32,
    function,
    int64,
    pairs_landed,
    send_pair,
    sync_cluster,
    thread_index,
    uint32,
)
from .communicator import limits_of
from .watch import HIDDEN, LEAVE, keep_waiting

Box = namedtuple("Box", "words barriers turn")
Box.__doc__ = """words: uint32 [2 parities, pairs, 2] in shared memory, at a multiple of 8 bytes. barriers: uint64 [2]
there. turn: int64 `local(1)`, of the thread that has it."""


@function
def open_box(words, barriers, turn):
    """A box (see Box), empty: once in a kernel, by all blocks of a cluster, which may then send (cluster)."""
    if thread_index() == 0:
        barrier_init(barriers, 0)
        barrier_init(barriers, 1)
    turn[0] = int64(0)
    sync_cluster()
    return Box(words, barriers, turn)


@function
def expect_pairs(box, pairs):
    """So many pairs are to come in this turn (block). They may have come already."""
    if thread_index() == 0:
        barrier_expect(box.barriers, box.turn[0] & 1, 8 * pairs)


@function
def place_of(box, pair):
    """Where this turn's pair number `pair` stands in Box.words (thread)."""
    return (box.turn[0] & 1) * (box.words.size >> 1) + 2 * pair


@function
def send(box, pair, blocks, first, second):
    """Pair number `pair` to every block of the cluster, its own too (thread). blocks: how many, a constant."""
    at = place_of(box, pair)
    for rank in range(blocks):
        send_pair(box.words, at, rank, first, second, box.barriers, box.turn[0] & 1)


@function
def await_pairs(lane, box):
    """Returns when all pairs of this turn have come (thread)."""
    limits, barrier, parity = limits_of(lane), box.turn[0] & 1, box.turn[0] >> 1 & 1
    polls = began = 0
    while not pairs_landed(box.barriers, barrier, parity) and began != LEAVE:
        polls += 1
        began = keep_waiting(limits, polls, began, HIDDEN, limits.pe, cluster_rank(), box.turn[0], int64(0))


@function
def next_turn(box):
    """Behind a barrier of the block behind its last look at what came (thread)."""
    box.turn[0] += 1


@function
def cluster_sum(lane, box, value, blocks):
    """The sum of the blocks' values, in their order: the same bits for all of them (cluster).

    value: the block's, the same for its threads. box: of `blocks` pairs; its turn is the caller's to end.
    blocks: a constant.
    """
    expect_pairs(box, blocks)
    if thread_index() == 0:
        send(box, cluster_rank(), blocks, as_bits(value), uint32(0))
    await_pairs(lane, box)
    total = float32(0)
    for block in range(blocks):
        total += as_float32(box.words[place_of(box, block)])
    return total
