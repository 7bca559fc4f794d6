"""The blocks' votes: every block of every PE tells all of them four words, and all count the same votes.

One hop, by packets or put_signal, with no leader; votes are counted in the same order everywhere, so that all reach the
same. Only a host's wish to stop is one PE's to tell: it travels in the vote of block 0 of PE 0. In a prompt, which has
no token to choose, all vote now and then on that alone.
"""

from collections import namedtuple

from .backend import (
    as_bits,
    as_float32,
    block_index,
    fence,
    float32,
    function,
    int64,
    lane_index,
    local,
    peer,
    put_signal,
    store_packet,
    thread_index,
    uint32,
    uint64,
    warp_index,
    warp_max,
    warp_max_key,
    warp_sum,
)
from .packets import receive_batch
from .request import NO_TOKEN
from .shmem import wait_for_epoch
from .watch import VOTE
from .workers import sync_workers

Ballot = namedtuple("Ballot", "votes outbox signals keys numbers epoch")
Ballot.__doc__ = """Symmetric memory of the votes and a block's scratch.

votes: uint32 [2 parities, size, blocks, 8 words], two packets a vote. outbox: uint32 [2 parities, blocks, 8] and
signals: uint64 [size, blocks], for `plan.put`. In shared memory: keys: uint64 [warps + 1]; numbers: float32
[warps + 4]; epoch: int64 [1], the next vote's number, which all threads read before the barriers of a count and one
then raises.
"""
LOWEST = -1e30


@function
def sort_key(score, token, stop):
    """Orders by score, then by lower token id; the lowest bit carries the wish to stop."""
    bits = as_bits(score)
    ordered = uint32(~bits) if bits >> uint32(31) else uint32(bits | uint32(0x80000000))
    return (uint64(ordered) << uint64(32)) | (uint64(NO_TOKEN - token) << uint64(8)) | uint64(stop)


@function
def token_of(key):
    """The token of a vote's winner; NO_TOKEN where no block had one."""
    return int64(NO_TOKEN) - int64((key >> uint64(8)) & uint64(NO_TOKEN))


@function
def block_max_key(plan, ballot, key):
    """The block's highest key, for every thread (block)."""
    key = warp_max_key(key)
    sync_workers(plan)
    if lane_index() == 0:
        ballot.keys[warp_index()] = key
    sync_workers(plan)
    for warp in range(plan.warps):
        key = max(key, ballot.keys[warp])
    return key


@function
def block_max(plan, ballot, value):
    """The block's highest value, for every thread (block)."""
    value = warp_max(value)
    sync_workers(plan)
    if lane_index() == 0:
        ballot.numbers[warp_index()] = value
    sync_workers(plan)
    for warp in range(plan.warps):
        value = max(value, ballot.numbers[warp])
    return value


@function
def block_sum(plan, ballot, value):
    """The block's sum in warp order, for every thread (block)."""
    value = warp_sum(value)
    sync_workers(plan)
    if lane_index() == 0:
        ballot.numbers[warp_index()] = value
    sync_workers(plan)
    total = float32(0)
    for warp in range(plan.warps):
        total += ballot.numbers[warp]
    return total


@function
def vote(plan, comm, ballot, a, b, c, d):
    """This block's vote, four words, to every PE; one of the `count_`s must follow (block)."""
    epoch = ballot.epoch[0]
    tag = uint32(epoch)
    for p in range(thread_index(), plan.pes, plan.block):
        at = 8 * (((epoch & 1) * plan.pes + comm.rank) * plan.grid + block_index())
        if plan.put:
            fence()  # this vote's signal must not come before the last one's
            start = 8 * ((epoch & 1) * plan.grid + block_index())
            ballot.outbox[start], ballot.outbox[start + 2] = a, b
            ballot.outbox[start + 4], ballot.outbox[start + 6] = c, d
            for half in range(4):
                ballot.outbox[start + 2 * half + 1] = tag
            number = comm.rank * plan.grid + block_index()
            put_signal(ballot.votes, at, ballot.outbox, start, 8, ballot.signals, number, epoch, comm.pes[p])
        else:
            there = peer(ballot.votes, comm.distances[p])
            store_packet(there, at, a, tag, b, tag)
            store_packet(there, at + 4, c, tag, d, tag)


@function
def wait_for_votes(plan, ballot, limits):
    """With `plan.put`, packets are ordinary data behind their signals (block)."""
    epoch = ballot.epoch[0]
    for sender in range(thread_index(), plan.pes * plan.grid, plan.block):
        wait_for_epoch(ballot.signals, sender, epoch, limits, VOTE, sender // plan.grid)
    sync_workers(plan)


@function
def count_keys(plan, ballot, limits):
    """The highest key among all votes, its logit, the highest logit, and PE 0's wish to stop (block)."""
    if plan.put:
        wait_for_votes(plan, ballot, limits)
    epoch = ballot.epoch[0]
    at, votes = 8 * (epoch & 1) * plan.pes * plan.grid, plan.pes * plan.grid
    data = local(8, uint32)
    best, logit, top, stop = uint64(0), float32(0), float32(LOWEST), uint64(0)
    for i in range(thread_index(), votes, plan.block):
        receive_batch(ballot.votes, at, 2 * i, 1, 2 * i + 2, uint32(epoch), data, limits, VOTE, 2 * plan.grid)
        key = (uint64(data[0]) << uint64(32)) | uint64(data[1])
        if i == 0:
            stop = key & uint64(1)
        if key > best:
            best, logit = key, as_float32(data[2])
        top = max(top, as_float32(data[3]))
    winner = block_max_key(plan, ballot, best)
    top = block_max(plan, ballot, top)
    sync_workers(plan)
    if thread_index() == 0:
        ballot.numbers[plan.warps + 1] = float32(stop)
        ballot.epoch[0] = epoch + 1
    if best == winner:
        ballot.numbers[plan.warps] = logit
    sync_workers(plan)
    return winner, ballot.numbers[plan.warps], top, ballot.numbers[plan.warps + 1] != float32(0)


@function
def agree_to_stop(plan, comm, ballot, stop, limits):
    """Whether PE 0's host wants to stop, the same on every block of every PE (block): a vote on no token.

    stop: as `choose` takes it. What one of a block's threads has seen is the block's word.
    """
    word = block_max_key(plan, ballot, uint64(stop))
    vote(plan, comm, ballot, uint32(0), uint32(word), uint32(0), uint32(0))
    _, _, _, wish = count_keys(plan, ballot, limits)
    return wish


@function
def count_masses(plan, ballot, limits):
    """The sums of the votes' first two words as float32, in a fixed order (block)."""
    if plan.put:
        wait_for_votes(plan, ballot, limits)
    epoch = ballot.epoch[0]
    at, votes = 8 * (epoch & 1) * plan.pes * plan.grid, plan.pes * plan.grid
    data = local(8, uint32)
    above, total = float32(0), float32(0)
    for i in range(thread_index(), votes, plan.block):
        receive_batch(ballot.votes, at, 2 * i, 1, 2 * i + 2, uint32(epoch), data, limits, VOTE, 2 * plan.grid)
        above += as_float32(data[0])
        total += as_float32(data[1])
    above = block_sum(plan, ballot, above)
    if thread_index() == 0:
        ballot.epoch[0] = epoch + 1  # which all have read, and read again after the next sum
    return above, block_sum(plan, ballot, total)
