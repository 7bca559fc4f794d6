"""Products on the tensor cores, or on the host's threads: every sum must be right, whatever the cut."""

import numpy as np
import pytest

from shmemtp.device import (
    Constants,
    add_products,
    begin_products,
    function,
    kernel,
    lane_places,
    local,
    multiply_rows,
    shared,
    store_products,
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


WIDTH = 64


@kernel
def multiply_in_turns(tiles, x, turns, rows, vectors, stride, block, result):
    """`turns` times WIDTH columns of the rows and the vectors, tile after tile; both begin behind a tile of 0."""
    held = shared(0, tiles.size, uint16)
    vector = shared(2 * tiles.size, x.size, uint16)
    sums = shared(2 * tiles.size + 2 * x.size, result.size, float32)
    copy(tiles, held, tiles.size, block)
    copy(x, vector, x.size, block)
    copy(result, sums, result.size, block)
    sync_block()
    totals = local(rows.share, float32)
    begin_products(totals, rows.count, vectors.count)
    for turn in range(1, turns + 1):
        at, start = turn * rows.count * WIDTH, turn * vectors.count * WIDTH
        add_products(totals, held, at, vector, start, rows.count, vectors.count)
    store_products(totals, rows.count, vectors.count, sums, 6, stride)
    sync_block()
    copy(sums, result, result.size, block)


@pytest.mark.parametrize("rows", [8, 40, 56])
@pytest.mark.parametrize("vectors", [16, 32])
def test_some_rows_times_some_vectors(device, run, rows, vectors):
    """Some times 64 columns; and nothing else is written."""
    turns, random, block = 3, np.random.default_rng(rows), device.warp_size
    weights = to_bfloat16(random.normal(size=(turns + 1, rows, WIDTH)).astype(np.float32))
    values = to_bfloat16(random.normal(size=(turns + 1, vectors, WIDTH)).astype(np.float32))
    tiles, x = device.array(weights.size, np.uint16), device.array(values.size, np.uint16)
    tiles.fill(np.concatenate([swap_halves(tile) for tile in weights]).reshape(-1))
    x.fill(np.concatenate([place_vectors(tile) for tile in values]))
    stride = rows + 10
    untouched = np.full(6 + vectors * stride, 7, np.float32)
    sums = device.array(untouched.size, np.float32)
    sums.fill(untouched)
    share = Constants(count=rows, share=-(-rows * vectors // device.warp_size))
    args = (tiles, x, turns, share, Constants(count=vectors), stride, block, sums)
    run(multiply_in_turns, (1, block, block), *args, shared_bytes=weights.nbytes + values.nbytes + untouched.nbytes)
    right = np.full((vectors, stride), 7.0)
    wanted = (
        from_bfloat16(each[1:].reshape(-1)).reshape(each[1:].shape).astype(np.float64) for each in (values, weights)
    )
    right[:, :rows] = np.einsum("tvc,trc->vr", *wanted)
    np.testing.assert_array_equal(sums.numpy()[:6], 7)
    np.testing.assert_allclose(sums.numpy()[6:].reshape(right.shape), right, rtol=1e-5, atol=1e-5 * WIDTH)


def place_vectors(values):
    """[vectors, WIDTH] as `add_products` takes them: pairs of vectors 8 apart take turns, odd ones' fours swapped."""
    fours = values.reshape(-1, 2, 8, WIDTH // 8, 2, 2, 2)  # sixteens, halves, eights, eights of elements, fours, pairs
    fours = fours.copy()
    fours[:, :, 1::2] = fours[:, :, 1::2, :, ::-1]
    return fours.transpose(0, 2, 3, 4, 5, 1, 6).reshape(-1)
