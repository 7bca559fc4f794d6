"""Products on the tensor cores, or on the host's threads: every sum must be right, whatever the cut."""

import numpy as np
import pytest

from shmemtp.device import function, kernel, multiply_rows, shared, sync_block, thread_index, uint16
from shmemtp.device.backend import float32
from shmemtp.weights import from_bfloat16, to_bfloat16

ROWS = 4


@function
def copy(source, target, count, block):
    for i in range(thread_index(), count, block):
        target[i] = source[i]


@kernel
def multiply(rows, x, start, columns, low, block, sums):
    held = shared(0, ROWS * columns, uint16)
    vector = shared(2 * ROWS * columns, x.size, uint16)
    result = shared(2 * ROWS * columns + 2 * x.size, ROWS, float32)
    copy(rows, held, ROWS * columns, block)
    copy(x, vector, x.size, block)
    sync_block()
    multiply_rows(held, 0, vector, start, columns, low, result, 0)
    sync_block()
    copy(result, sums, ROWS, block)


@pytest.mark.parametrize("columns", [64, 128, 192, 448, 512, 704])
@pytest.mark.parametrize("terms", [1, 2])
def test_four_rows(device, run, columns, terms):
    """The low terms stand 4 elements further than they must, as those of the decode kernel's inputs do."""
    start, random = 64, np.random.default_rng(columns)
    low = start + columns + 4 if terms == 2 else 0
    weights, values = (
        to_bfloat16(random.standard_normal(count).astype(np.float32))
        for count in (ROWS * columns, 2 * (start + columns) + 8)
    )
    rows, x = device.array(weights.size, np.uint16), device.array(values.size, np.uint16)
    rows.fill(weights)
    x.fill(values)
    sums = device.array(ROWS, np.float32)
    block = device.warp_size
    nbytes = 2 * (weights.size + values.size) + 4 * ROWS
    run(multiply, (1, block, block), rows, x, start, columns, low, block, sums, shared_bytes=nbytes)
    wanted = from_bfloat16(values)[start:][:columns]
    if low:
        wanted = wanted + from_bfloat16(values)[start + low :][:columns]
    expected = from_bfloat16(weights).reshape(ROWS, columns).astype(np.float64) @ wanted
    np.testing.assert_allclose(sums.numpy(), expected, rtol=1e-5, atol=1e-4)
