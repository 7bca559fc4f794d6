"""Reads device memory as fast as plain loads can: the ceiling that bench_decode measures itself against."""

from shmemtp.device import (
    block_index,
    block_size,
    function,
    grid_size,
    int64,
    kernel,
    load_vector,
    thread_index,
    uint32,
)


@function
def folded(array, i):
    a, b, c, d = load_vector(array, 4 * i)
    return uint32(a ^ b ^ c ^ d)


@kernel
def read_all(array, sink, passes):
    """Reads `array` (uint32, a multiple of 32 words) `passes` times; the result keeps the loads alive."""
    total = uint32(0)
    vectors, step = array.size // 4, int64(grid_size() * block_size())
    for _ in range(passes):
        for first in range(block_index() * block_size() + thread_index(), vectors, 8 * step):
            for k in range(8):
                i = first + k * step
                if i < vectors:
                    total ^= folded(array, i)
    if total == uint32(0x12345678):
        sink[0] = total
