"""The all-reduce of a row-parallel product, fused with the residual add, in the product's own epilogue: one-shot.

Each PE has partial sums of every element of the hidden state. The block that multiplied a row pair sends it to the same
block of every PE, adds what the PEs sent in their order, so that the sum has the same bits everywhere, adds the
residual, which that block alone keeps in float32, and publishes the new pair to the blocks of its own PE, rounded to
bf16. Whoever needs the hidden state reads it with `norm.receive_hidden`. One hop between PEs, one between blocks; no
separate collective, no barrier.
"""

from .backend import (
    DEVICE,
    as_bits,
    as_float32,
    block_index,
    float32,
    function,
    local,
    store_half,
    thread_index,
    uint32,
)
from .bfloat16 import pack
from .communicator import FIRST
from .exchange import collect, deliver, post_to_all
from .matvec import row_pair


@function
def own_pairs(plan):
    """How many pairs of the hidden state this block owns: pairs block * hidden_local and on."""
    if plan.hidden_pairs == plan.hidden_local * plan.grid:
        return plan.hidden_local
    return max(0, min(plan.hidden_local, plan.hidden_pairs - block_index() * plan.hidden_local))


@function
def reduce_residual(plan, comm, channels, partial, splits, residual, epoch):
    """Sums the block's pairs of `partial` over the PEs into `residual` and publishes them (block).

    partial, splits: as `matvec.multiply` left them. residual: float32 [hidden_local, 2] in shared memory.
    epoch: int64, the same on all PEs, one more with each call; every block has a pair in every epoch.
    """
    count = own_pairs(plan)
    if plan.pes > 1:
        turn = thread_index()
        while turn < count:
            upper, lower = row_pair(partial, turn, plan.hidden_local // 2, splits)
            post_to_all(comm, epoch, FIRST, turn, as_bits(upper), as_bits(lower))
            turn += plan.block
        deliver(comm, epoch, FIRST, count, True)
    turn = thread_index()
    while turn < count:
        upper, lower = sum_over_pes(plan, comm, partial, splits, turn, epoch)
        upper += residual[2 * turn]
        lower += residual[2 * turn + 1]
        residual[2 * turn] = upper
        residual[2 * turn + 1] = lower
        number = (epoch & 1) * plan.hidden_pairs + block_index() * plan.hidden_local + turn
        store_half(channels, plan.channel_hidden + 2 * number, pack(upper, lower), uint32(epoch), DEVICE)
        turn += plan.block


@function
def sum_over_pes(plan, comm, partial, splits, turn, epoch):
    """The block's pair number `turn` summed over the PEs, in their order (thread)."""
    if plan.pes == 1:
        return row_pair(partial, turn, plan.hidden_local // 2, splits)
    return sum_in_order(plan, comm, turn, epoch)


@function
def sum_in_order(plan, comm, number, epoch):
    """Waits for packet `number` of every PE, two float32, and adds them in the PEs' order (thread)."""
    data = local(comm.shape.pes_twice, uint32)
    collect(comm, epoch, FIRST, number, data)
    upper, lower = float32(0), float32(0)
    for p in range(plan.pes):
        upper += as_float32(data[2 * p])
        lower += as_float32(data[2 * p + 1])
    return upper, lower
