"""Products on the tensor cores, or on the host's threads: every sum must be right, whatever the cut."""

import numpy as np
import pytest

from shmemtp.device import (
    Constants,
    attend_granules,
    function,
    kernel,
    lane_places,
    multiply_rows,
    multiply_tiles,
    shared,
    sync_block,
    thread_index,
    uint16,
    uint32,
    warp_index,
)
from shmemtp.device.backend import float32
from shmemtp.weights import from_bfloat16, to_bfloat16

ROWS = 4


@function
def copy(source, target, count, block):
    for i in range(thread_index(), count, block):
        target[i] = source[i]


def swap_halves(rows):
    """As a tile has its odd rows: the halves of every 64 columns change places."""
    halves = rows.reshape(-1, 2, rows.shape[-1] // 64, 2, 32).copy()
    halves[:, 1] = halves[:, 1, :, ::-1]
    return halves.reshape(rows.shape)


def swap_pairs(values, start, columns, low):
    """A vector, and its low terms, as `multiply_rows` takes them: of every four pairs the middle two change places."""
    swapped = values.copy()
    for begin in {start, start + low}:
        fours = swapped[begin:][:columns].reshape(-1, 4, 2)
        fours[:] = fours[:, [0, 2, 1, 3]].copy()
    return swapped


@kernel
def multiply(rows, x, start, columns, low, block, sums):
    held = shared(0, ROWS * columns, uint16)
    vector = shared(2 * ROWS * columns, x.size, uint16)
    result = shared(2 * ROWS * columns + 2 * x.size, ROWS, float32)
    copy(rows, held, ROWS * columns, block)
    copy(x, vector, x.size, block)
    sync_block()
    multiply_rows(held, 0, vector, start, columns, low, lane_places(columns, low), result, 0)
    sync_block()
    copy(result, sums, ROWS, block)


@pytest.mark.parametrize("columns", [64, 128, 192, 448, 512, 704])
@pytest.mark.parametrize("terms", [1, 2])
def test_four_rows(device, run, columns, terms):
    """The low terms stand 4 elements further than they must, as those of the decode kernel's inputs do."""
    start, random, block = 64, np.random.default_rng(columns), device.warp_size
    low = columns + 4 if terms == 2 else 0
    weights, values = (
        to_bfloat16(random.standard_normal(size).astype(np.float32))
        for size in (ROWS * columns, start + 2 * columns + 8)
    )
    rows, x, sums = (
        device.array(size, kind) for size, kind in ((weights.size, "u2"), (values.size, "u2"), (ROWS, "f4"))
    )
    rows.fill(swap_halves(weights.reshape(ROWS, columns)).reshape(-1))
    x.fill(swap_pairs(values, start, columns, low))
    nbytes = 2 * (weights.size + values.size) + 4 * ROWS
    run(multiply, (1, block, block), rows, x, start, columns, low, block, sums, shared_bytes=nbytes)
    vector = from_bfloat16(values)[start:]
    wanted = vector[:columns] + vector[low:][:columns] if low else vector[:columns]
    expected = from_bfloat16(weights).reshape(ROWS, columns).astype(np.float64) @ wanted
    np.testing.assert_allclose(sums.numpy(), expected, rtol=1e-5, atol=1e-4)


GRANULE = 16


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
    placed_keys = padded[0].reshape(-1, 2, 8, chunks, 4, 2, 2).transpose(0, 3, 2, 4, 5, 1, 6)
    placed_values = padded[1].reshape(-1, 2, 4, 2, chunks, 8, 2).transpose(0, 4, 5, 2, 1, 6, 3)
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


SIDE = 16


@kernel
def multiply_twice(tiles, tile_columns, x, x_stride, columns, vectors, sums_stride, block, sums):
    """The vectors behind the first eight rows of x; the first half of the columns stored, the second half added."""
    held = shared(0, tiles.size, uint16)
    vector = shared(2 * tiles.size, x.size, uint16)
    result = shared(2 * tiles.size + 2 * x.size, sums.size, float32)
    copy(tiles, held, tiles.size, block)
    copy(x, vector, x.size, block)
    copy(sums, result, sums.size, block)
    sync_block()
    half = columns // 2
    for n in range(2):
        multiply_tiles(
            *(held, n * half, tile_columns, vector, 8 * x_stride + 2 * n * half, x_stride),
            *(half, vectors.count, result, 6, sums_stride, n > 0),
        )
    sync_block()
    copy(result, sums, sums.size, block)


@pytest.mark.parametrize("columns", [128, 256, 384, 512])
@pytest.mark.parametrize("vectors", [16, 32])
def test_sixteen_rows_times_some_vectors(device, run, columns, vectors):
    """Some columns of wider tiles; and nothing else is written."""
    random, block, wide = np.random.default_rng(columns), device.warp_size, columns + 64
    sums_stride, x_stride = SIDE + 8, 2 * columns + 8
    weights = to_bfloat16(random.normal(size=(SIDE, wide)).astype(np.float32))
    values = to_bfloat16(random.normal(size=(vectors, columns)).astype(np.float32))
    placed = np.zeros((8 + vectors // 2, x_stride), np.uint16)
    pairs = values.reshape(-1, 2, 8, columns // 4, 2, 2)  # sixteens, halves, eights, quads of elements, pairs
    placed[8:, :-8] = pairs.transpose(0, 2, 3, 4, 1, 5).reshape(-1, 2 * columns)
    tiles, x = device.array(weights.size, np.uint16), device.array(placed.size, np.uint16)
    tiles.fill(swap_halves(weights).reshape(-1))
    x.fill(placed.reshape(-1))
    untouched = np.full(6 + vectors * sums_stride, 7, np.float32)
    sums = device.array(untouched.size, np.float32)
    sums.fill(untouched)
    args = (tiles, wide, x, x_stride, columns, Constants(count=vectors), sums_stride, block, sums)
    run(multiply_twice, (1, block, block), *args, shared_bytes=weights.nbytes + placed.nbytes + untouched.nbytes)
    right = np.full((vectors, sums_stride), 7.0)
    right[:, :SIDE] = from_bfloat16(values).astype(np.float64) @ from_bfloat16(weights[:, :columns]).T
    np.testing.assert_array_equal(sums.numpy()[:6], 7)
    np.testing.assert_allclose(sums.numpy()[6:].reshape(right.shape), right, rtol=1e-5, atol=1e-5 * columns)
