"""Attention on the tensor cores, or on the host's threads, over granules of keys and values as they take them."""

import numpy as np
import pytest

from shmemtp.device import (
    Constants,
    attend_granules,
    attend_tile,
    begin_attention,
    end_attention,
    function,
    kernel,
    local,
    shared,
    sync_block,
    thread_index,
    uint16,
    uint32,
    warp_index,
)
from shmemtp.device.backend import float32
from shmemtp.weights import from_bfloat16, to_bfloat16

GRANULE, TILE = 16, 32  # positions


@function
def copy(source, target, count, block):
    for i in range(thread_index(), count, block):
        target[i] = source[i]


def as_operands(keys, values):
    """Keys and values [granules, GRANULE, dimensions, a multiple of 16] as device/backend/README.md places them."""
    chunks = keys.shape[-1] // 16
    return (
        keys.reshape(-1, 2, 8, chunks, 4, 2, 2).transpose(0, 3, 2, 4, 5, 1, 6),
        values.reshape(-1, 2, 4, 2, chunks, 8, 2).transpose(0, 4, 5, 2, 1, 6, 3),
    )


@kernel
def attend(shape, queries, counts, keys, values, at, step, granules, block, sums, totals):
    warps, rows, size = shape.warps, shape.rows, shape.rows * shape.head_dim
    held = shared(0, shape.queries * shape.head_dim, uint16)
    seen = shared(shape.counts_at, shape.queries, uint32)
    mixed = shared(shape.sums_at, warps * size, float32)
    found = shared(shape.totals_at, 2 * warps * rows, float32)
    copy(queries, held, shape.queries * shape.head_dim, block)
    copy(counts, seen, shape.queries, block)
    sync_block()
    attend_granules(
        *(held, shape.row, rows, seen, keys, values, at, step),
        *(uint32(warp_index()), uint32(warps), uint32(granules), shape.head_dim, mixed, found),
    )
    sync_block()
    copy(mixed, sums, warps * size, block)
    copy(found, totals, 2 * warps * rows, block)


@pytest.mark.parametrize("head_dim", [8, 24, 64, 128, 256])
@pytest.mark.parametrize(("granules", "warps"), [(1, 1), (5, 2), (9, 4)])
@pytest.mark.parametrize(("row", "rows"), [(0, 1), (2, 5), (0, 8)])
def test_attention_over_granules(device, run, head_dim, granules, warps, row, rows):
    """Each warp's granules, some of which a query does not see; every other granule of the cache is not theirs."""
    random = np.random.default_rng(head_dim + granules + rows)
    count = row + rows
    bits = [
        to_bfloat16(random.standard_normal(shape).astype(np.float32))
        for shape in ((count, head_dim), (2 * granules, GRANULE, head_dim), (2 * granules, GRANULE, head_dim))
    ]
    q, k, v = (from_bfloat16(each).astype(np.float64) for each in bits)
    seen = random.integers(0, GRANULE * granules + 1, count).astype(np.uint32)
    seen[-1] = GRANULE * granules
    chunks = -(-head_dim // 16)
    padded = np.zeros((2, 2 * granules, GRANULE, 16 * chunks), np.uint16)
    padded[..., :head_dim] = bits[1:]
    placed_keys, placed_values = as_operands(*padded)
    arrays = []
    for values in (bits[0], seen, placed_keys, placed_values):
        arrays.append(device.array(values.size, values.dtype))
        arrays[-1].fill(values.reshape(-1))
    sums, totals = device.array(warps * rows * head_dim, np.float32), device.array(2 * warps * rows, np.float32)
    sizes = 2 * count * head_dim, 4 * count, 4 * warps * rows * head_dim, 8 * warps * rows
    ends = np.cumsum([-(-size // 16) * 16 for size in sizes])
    shape = Constants(
        **dict(warps=warps, row=row, rows=rows, queries=count, head_dim=head_dim),
        **dict(counts_at=int(ends[0]), sums_at=int(ends[1]), totals_at=int(ends[2])),
    )
    block, granule = warps * device.warp_size, GRANULE * 16 * chunks
    args = (shape, *arrays, granule, 2 * granule, granules, block, sums, totals)
    run(attend, (1, block, device.warp_size), *args, shared_bytes=int(ends[3]))
    k, v = (x[1::2].reshape(-1, head_dim) for x in (k, v))
    number = np.arange(GRANULE * granules)
    for warp in range(warps):
        for r in range(rows):
            own = (number // GRANULE % warps == warp) & (number < seen[row + r])
            highest, total = totals.numpy().reshape(warps, rows, 2)[warp, r]
            if not own.any():
                assert (highest, total) == (np.float32(-1e30), 0)
                assert not sums.numpy().reshape(warps, rows, head_dim)[warp, r].any()
                continue
            scores = k[own] @ q[row + r]
            weights = np.exp(scores - scores.max())
            np.testing.assert_allclose([highest, total], [scores.max(), weights.sum()], rtol=5e-3, atol=1e-4)
            mixed = sums.numpy().reshape(warps, rows, head_dim)[warp, r]
            np.testing.assert_allclose(mixed, weights @ v[own], rtol=5e-3, atol=2e-2 * weights.sum())


@kernel
def attend_tiles(shape, queries, counts, keys, values, block, target):
    """All tiles, brought to shared memory first; every warp has its eight queries."""
    seen = shared(0, shape.queries, uint32)
    k, v = shared(shape.keys_at, keys.size, uint16), shared(shape.values_at, values.size, uint16)
    copy(counts, seen, shape.queries, block)
    copy(keys, k, keys.size, block)
    copy(values, v, values.size, block)
    sync_block()
    state, row = local(shape.floats, float32), 8 * warp_index()
    rows = min(8, shape.queries - row)
    begin_attention(state, queries, row * shape.head_dim, rows, shape.head_dim)
    for tile in range(shape.tiles):
        at = tile * shape.tile
        attend_tile(state, seen, row, rows, k, at, v, at, uint32(shape.first + 32 * tile), shape.head_dim)
    end_attention(state, rows, shape.head_dim, target, shape.stride * row, shape.stride)


@pytest.mark.parametrize("head_dim", [8, 24, 64, 128, 256])
@pytest.mark.parametrize(("tiles", "queries", "first"), [(1, 1, 0), (2, 13, 32), (3, 24, 0)])
def test_attention_over_tiles(device, run, head_dim, tiles, queries, first):
    """A part of the context from position `first` on, some of whose queries see none of it."""
    random = np.random.default_rng(head_dim + tiles + queries)
    chunks, positions = -(-head_dim // 16), TILE * tiles
    bits = [
        to_bfloat16(random.standard_normal(shape).astype(np.float32))
        for shape in ((queries, head_dim), (positions, head_dim), (positions, head_dim))
    ]
    q, k, v = (from_bfloat16(each).astype(np.float64) for each in bits)
    seen = random.integers(0, first + positions + 1, queries).astype(np.uint32)
    seen[0] = first + positions
    padded = np.zeros((2, positions // GRANULE, GRANULE, 16 * chunks), np.uint16)
    padded[..., :head_dim] = np.reshape(bits[1:], (2, -1, GRANULE, head_dim))
    arrays = []
    for values in (bits[0], seen, *as_operands(*padded)):
        arrays.append(device.array(values.size, values.dtype))
        arrays[-1].fill(values.reshape(-1))
    stride, warps = head_dim + 4, -(-queries // 8)
    target = device.array(queries * stride, np.float32)
    sizes = 4 * queries, padded.nbytes // 2, padded.nbytes // 2
    ends = np.cumsum([-(-size // 16) * 16 for size in sizes])
    shape = Constants(
        **dict(queries=queries, head_dim=head_dim, tiles=tiles, tile=TILE * 16 * chunks, first=first, stride=stride),
        **dict(keys_at=int(ends[0]), values_at=int(ends[1])),
        floats=-(-8 // device.warp_size) * (2 * head_dim + 2),
    )
    block = warps * device.warp_size
    args = (shape, *arrays, block, target)
    run(attend_tiles, (1, block, device.warp_size), *args, shared_bytes=int(ends[2]))
    found = target.numpy().reshape(queries, stride)
    for r in range(queries):
        own = first + np.arange(positions) < seen[r]
        mixed, (highest, total) = found[r, :head_dim], found[r, head_dim : head_dim + 2]
        if not own.any():
            assert (highest, total) == (np.float32(-1e30), 0) and not mixed.any()
            continue
        scores = k[own] @ q[r]
        weights = np.exp(scores - scores.max())
        np.testing.assert_allclose([highest, total], [scores.max(), weights.sum()], rtol=5e-3, atol=1e-4)
        np.testing.assert_allclose(mixed, weights @ v[own], rtol=5e-3, atol=2e-2 * weights.sum())
