"""Products on the tensor cores, or on the host's threads: every sum must be right, whatever the cut."""

import numpy as np
import pytest

from shmemtp.device import (
    Constants,
    function,
    kernel,
    lane_places,
    multiply_rows,
    multiply_tiles,
    shared,
    sync_block,
    thread_index,
    uint16,
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
