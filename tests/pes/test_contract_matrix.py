"""Products on the tensor cores, or on the host's threads: every sum must be right, whatever the cut."""

import numpy as np
import pytest

from shmemtp.device import Constants, function, kernel, multiply_rows, shared, sync_block, thread_index, uint16
from shmemtp.device.backend import float32
from shmemtp.weights import from_bfloat16, to_bfloat16

ROWS = 4


@function
def copy(source, target, count, block):
    for i in range(thread_index(), count, block):
        target[i] = source[i]


@kernel
def multiply(shape, rows, x, start, stride, columns, low, block, sums):
    held = shared(0, ROWS * columns, uint16)
    vector = shared(2 * ROWS * columns, x.size, uint16)
    result = shared(2 * ROWS * columns + 2 * x.size, ROWS * shape.count, float32)
    copy(rows, held, ROWS * columns, block)
    copy(x, vector, x.size, block)
    sync_block()
    multiply_rows(held, 0, vector, start, stride, shape.count, columns, low, result, 0)
    sync_block()
    copy(result, sums, ROWS * shape.count, block)


def products(device, run, weights, values, start, stride, count, columns, low):
    """float32 [ROWS, count] of `multiply_rows`."""
    rows, x = device.array(weights.size, np.uint16), device.array(values.size, np.uint16)
    rows.fill(weights)
    x.fill(values)
    sums = device.array(ROWS * count, np.float32)
    block = device.warp_size
    nbytes = 2 * (weights.size + values.size) + 4 * ROWS * count
    args = (Constants(count=count), rows, x, start, stride, columns, low, block, sums)
    run(multiply, (1, block, block), *args, shared_bytes=nbytes)
    return sums.numpy().reshape(ROWS, count)


@pytest.mark.parametrize("columns", [64, 128, 192, 448, 512, 704])
@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_four_rows(device, run, columns, terms, count):
    """The low terms stand 4 elements further than they must, as those of the decode kernel's inputs do.

    Each vector's products are what they are without the others, bit for bit.
    """
    start, random = 64, np.random.default_rng(columns)
    low = columns + 4 if terms == 2 else 0
    stride = 2 * columns + 8
    weights, values = (
        to_bfloat16(random.standard_normal(size).astype(np.float32)) for size in (ROWS * columns, start + 8 * stride)
    )
    sums = products(device, run, weights, values, start, stride, count, columns, low)
    for n in range(count):
        vector = from_bfloat16(values)[start + n * stride :]
        wanted = vector[:columns] + vector[low:][:columns] if low else vector[:columns]
        expected = from_bfloat16(weights).reshape(ROWS, columns).astype(np.float64) @ wanted
        np.testing.assert_allclose(sums[:, n], expected, rtol=1e-5, atol=1e-4)
    last = products(device, run, weights, values, start + (count - 1) * stride, 0, 1, columns, low)
    np.testing.assert_array_equal(sums[:, -1:].view(np.uint32), last.view(np.uint32))
