"""Attention on the tensor cores, or on the host's threads, over granules of keys and values as they take them."""

import numpy as np
import pytest

from shmemtp.device import (
    Constants,
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
    if shape.near:
        found = shared(shape.found_at, shape.queries * shape.stride, float32)
        end_attention(state, rows, shape.head_dim, found, shape.stride * row, shape.stride)
        sync_block()
        copy(found, target, shape.queries * shape.stride, block)
    else:
        end_attention(state, rows, shape.head_dim, target, shape.stride * row, shape.stride)


@pytest.mark.parametrize("head_dim", [8, 24, 64, 128, 256])
@pytest.mark.parametrize(("tiles", "queries", "first"), [(1, 1, 0), (2, 13, 32), (3, 24, 0)])
@pytest.mark.parametrize("near", [False, True], ids=["device", "shared"])  # memory of the results
def test_attention_over_tiles(device, run, head_dim, tiles, queries, first, near):
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
    sizes = 4 * queries, padded.nbytes // 2, padded.nbytes // 2, 4 * queries * stride
    ends = np.cumsum([-(-size // 16) * 16 for size in sizes])
    shape = Constants(
        **dict(queries=queries, head_dim=head_dim, tiles=tiles, tile=TILE * 16 * chunks, first=first, stride=stride),
        **dict(keys_at=int(ends[0]), values_at=int(ends[1]), found_at=int(ends[2]), near=near),
        floats=-(-8 // device.warp_size) * (2 * head_dim + 2),
    )
    block = warps * device.warp_size
    args = (shape, *arrays, block, target)
    run(attend_tiles, (1, block, device.warp_size), *args, shared_bytes=int(ends[3]))
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
