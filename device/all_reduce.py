"""The all-reduce of a row-parallel product, fused with the residual add: one-shot, in the product's own epilogue.

Each PE has partial sums of every element of the hidden state. The block that multiplied a row pair sends it to the same
block of every PE (`send`), adds what the PEs sent in PE order, so that the sum is bitwise the same everywhere, adds the
residual, which that block alone keeps in float32, and publishes the new pair to the blocks of its own PE, rounded to
bf16 (`reduce`). Whoever needs the hidden state reads it with `norm.receive_hidden`.

One hop between PEs, one between blocks; no separate collective, no barrier. Two slot sets by the epoch's parity: a
block sends epoch k + 1 only after it has read the whole of epoch k, and every block has a pair in every epoch.

`plan.put` sends over NVSHMEM's put_signal instead of packets, for PEs without P2P reach: one message a block and PE,
its signal the epoch.
"""

from collections import namedtuple

from .backend import (
    as_bits,
    as_float32,
    block_index,
    float32,
    function,
    local,
    peer,
    put_signal_block,
    store_half,
    store_packet,
    sync_block,
    thread_index,
    uint32,
)
from .bfloat16 import pack
from .matvec import row_pair
from .packets import receive_from_all
from .shmem import wait_for_epoch
from .watch import ALL_REDUCE

Team = namedtuple("Team", "rank distances pes slots outbox signals")
Team.__doc__ = """The PEs that share a model, and the symmetric memory between them.

rank: this PE's. distances, pes: int64 [size], heap distance and world number by rank. slots: uint32, what others send
here: [2 parities, size, pairs, 4 words]. outbox: uint32 [2 parities, pairs, 4 words] and signals: uint64
[size, blocks], for `plan.put`.
"""


@function
def own_pairs(plan):
    """How many pairs of the hidden state this block owns: pairs block * hidden_local and on."""
    return max(0, min(plan.hidden_local, plan.hidden_pairs - block_index() * plan.hidden_local))


@function
def reduce_residual(plan, team, channels, partial, splits, residual, epoch, limits):
    """Sums the block's pairs of `partial` over the PEs into `residual` and publishes them (block).

    partial, splits: as `matvec.multiply` left them. residual: float32 [hidden_local, 2] in shared memory.
    epoch: int64, the same on all PEs, one more with each call.
    """
    if plan.put:
        put_pairs(plan, team, partial, splits, epoch)
        wait_for_puts(plan, team, epoch, limits)
    else:
        send_pairs(plan, team, partial, splits, epoch)
    for pair in range(thread_index(), own_pairs(plan), plan.block):
        upper, lower = sum_of_pair(plan, team, partial, splits, pair, epoch, limits)
        upper += residual[2 * pair]
        lower += residual[2 * pair + 1]
        residual[2 * pair] = upper
        residual[2 * pair + 1] = lower
        number = (epoch & 1) * plan.hidden_pairs + block_index() * plan.hidden_local + pair
        store_half(channels, plan.channel_hidden + 2 * number, pack(upper, lower), uint32(epoch))


@function
def send_pairs(plan, team, partial, splits, epoch):
    """One packet for each pair and PE (block)."""
    if plan.pes > 1:
        tag = uint32(epoch)
        for pair in range(thread_index(), own_pairs(plan), plan.block):
            upper, lower = row_pair(partial, pair, splits)
            at = 4 * slot(plan, team.rank, block_index() * plan.hidden_local + pair, epoch)
            for p in range(plan.pes):
                there = peer(team.slots, team.distances[p])
                store_packet(there, at, as_bits(upper), tag, as_bits(lower), tag)


@function
def slot(plan, sender, pair, epoch):
    """The number of a pair's slot among all senders' of both parities."""
    return ((epoch & 1) * plan.pes + sender) * plan.hidden_pairs + pair


@function
def sum_of_pair(plan, team, partial, splits, pair, epoch, limits):
    """The pair's sum over the PEs, in PE order (thread)."""
    if plan.pes == 1:
        return row_pair(partial, pair, splits)
    at = 4 * slot(plan, 0, block_index() * plan.hidden_local + pair, epoch)
    data = local(plan.pes_twice, uint32)
    if plan.put:
        for p in range(plan.pes):
            data[2 * p] = team.slots[at + 4 * p * plan.hidden_pairs]
            data[2 * p + 1] = team.slots[at + 4 * p * plan.hidden_pairs + 2]
    else:
        receive_from_all(plan, team.slots, at, 4 * plan.hidden_pairs, uint32(epoch), data, limits, ALL_REDUCE)
    upper, lower = float32(0), float32(0)
    for p in range(plan.pes):
        upper += as_float32(data[2 * p])
        lower += as_float32(data[2 * p + 1])
    return upper, lower


@function
def put_pairs(plan, team, partial, splits, epoch):
    """One put_signal of all the block's pairs to each PE (block)."""
    first, count = block_index() * plan.hidden_local, own_pairs(plan)
    at = 4 * ((epoch & 1) * plan.hidden_pairs + first)
    for pair in range(thread_index(), count, plan.block):
        upper, lower = row_pair(partial, pair, splits)
        team.outbox[at + 4 * pair] = as_bits(upper)
        team.outbox[at + 4 * pair + 2] = as_bits(lower)
    sync_block()
    to = 4 * slot(plan, team.rank, first, epoch)
    for p in range(plan.pes):
        number = team.rank * plan.grid + block_index()
        put_signal_block(team.slots, to, team.outbox, at, 4 * count, team.signals, number, epoch, team.pes[p])


@function
def wait_for_puts(plan, team, epoch, limits):
    """Waits until every PE's signal for this block has reached `epoch` (block)."""
    for p in range(thread_index(), plan.pes, plan.block):
        wait_for_epoch(team.signals, p * plan.grid + block_index(), epoch, limits, ALL_REDUCE, p)
    sync_block()
