"""A matrix times the inputs of all tokens of a pass."""

from ..backend import as_float32, float32, function, load_pair, multiply_tiles, uint32, warp_index
from ..sequence import columns_of, select
from .sequence import STAGE_ROWS, splits_of, stages_of
from .stream import chunk_size, release_chunk, release_stage, row_stride, wait_chunk, wait_stage


@function
def parts_of(plan, product):
    """In how many parts of its columns a stage is multiplied, each by another warp (thread)."""
    return select(plan, product, plan.qkv_parts, plan.o_parts, plan.gate_up_parts, plan.down_parts, 1)


@function
def multiply(plan, stream, product, count, partial):
    """The block's rows of a product times the inputs of `count` tokens (worker's warp; all workers).

    partial: float32 in shared memory, which `row_pair` reads after `sync_workers`. What becomes of tokens that the pass
    has not, and of rows that the block has not, nobody reads.
    """
    stages, columns = stages_of(plan, product), columns_of(plan, product)
    if stages > 0:
        for split in range(splits_of(plan, product)):
            chunk = wait_chunk(plan, stream)
            number = uint32(0)
            while number < stages:
                stage = wait_stage(plan, stream)
                multiply_stage(plan, stream, product, count, stage, chunk, number, columns, split > 0, partial)
                release_stage(plan, stream)
                number = uint32(number + 1)
            release_chunk(stream)


@function
def multiply_stage(plan, stream, product, count, stage, chunk, number, columns, add, partial):
    """A split's stage, added into partial but for the first split's (warp).

    Shares, a part of the columns for some tokens, go to the warps in turn; a stage's are the same warps' in all splits,
    so that nobody else adds to their sums.
    """
    parts, vectors = parts_of(plan, product), uint32(plan.vectors)
    shares, width = uint32(parts * (uint32(count + (vectors - 1)) // vectors)), uint32(columns // parts)
    share = uint32(warp_index() + plan.warps - number * shares % uint32(plan.warps)) % uint32(plan.warps)
    while share < shares:
        part, token = uint32(share % uint32(parts)), uint32(share // uint32(parts) * plan.vectors)
        multiply_tiles(
            *(stream.tiles, uint32(stage + part * width), columns),
            *(stream.chunks, uint32(chunk + chunk_size(columns, token) + 2 * part * width), row_stride(columns)),
            *(width, plan.vectors, partial, sum_place(plan, product, part, token) + number * STAGE_ROWS),
            *(sum_stride(plan, product), add),
        )
        share = uint32(share + plan.warps)


@function
def sum_stride(plan, product):
    """Floats from a token's sums to the next one's (thread)."""
    return select(plan, product, plan.qkv_sums, plan.o_sums, plan.gate_up_sums, plan.down_sums, 0)


@function
def sum_place(plan, product, part, token):
    """Where `partial` has the sums of a token, of all rows (thread)."""
    return uint32(uint32(part * plan.tokens + token) * uint32(sum_stride(plan, product)))


@function
def row_pair(plan, product, partial, pair, token):
    """The two rows of the block's pair number `pair` times token number `token` (thread)."""
    upper, lower = float32(0), float32(0)
    for part in range(parts_of(plan, product)):
        a, b = load_pair(partial, sum_place(plan, product, part, token) + 2 * pair)
        upper += as_float32(a)
        lower += as_float32(b)
    return upper, lower
