"""The weight stream's plan: each block reads its tiles of a matrix and not what pads the last blocks' shares."""

import numpy as np
import pytest
from decoding import checkpoint

from shmemtp import plan as host
from shmemtp import product, prompt_plan, shared_memory
from shmemtp.config import load_config
from shmemtp.device import (
    Constants,
    block_index,
    cache,
    kernel,
    merge,
    packets,
    part,
    sequence,
    thread_index,
)
from shmemtp.device.prompt import attention as prompt_attention
from shmemtp.device.prompt import hidden as prompt_hidden
from shmemtp.device.prompt import ring as prompt_ring
from shmemtp.device.sequence import CONTEXT, LM_HEAD, tiles_of
from shmemtp.model import model_shape
from shmemtp.planner import make_plan


def test_host_and_kernels_have_the_same_numbers():
    """Kernels' private arrays are as large as the most that a plan may ask for."""
    assert (shared_memory.GRANULE, shared_memory.PAGE) == (cache.GRANULE, cache.PAGE)
    assert (product.TILE_ROWS, product.GROUP) == (sequence.TILE_ROWS, sequence.GROUP)
    assert (host.MOST_TOGETHER, host.MOST_BATCH) == (merge.MOST_TOGETHER, packets.BATCH)
    assert (shared_memory.MOST_QUERIES, shared_memory.PART_WORDS) == (part.QUERIES, part.RECORD)
    assert prompt_plan.ROWS == prompt_attention.ROWS
    assert (prompt_plan.MOST_PLACES, product.COLUMNS) == (prompt_ring.MOST_PLACES, prompt_ring.SLICE)
    assert prompt_plan.TOGETHER == prompt_hidden.TOGETHER


@kernel
def count_tiles(plan, counts):
    if thread_index() == 0:
        row = 0
        for product in range(LM_HEAD + 1):
            if product != CONTEXT:
                counts[row * plan.grid + block_index()] = tiles_of(plan, product)
                row += 1


@pytest.mark.parametrize("blocks", [1, 2, 5, 7])
def test_blocks_read_the_tiles_that_have_a_row(pe, device, run, blocks):
    config = load_config(checkpoint(pe, "llama"))
    plan = make_plan(model_shape(config, pe.size), 64, blocks, device.shared_bytes, 32, 32, max_tile_columns=64)
    products = plan.layout.products
    counts = device.array(len(products) * plan.grid, np.int64)
    run(count_tiles, (plan.grid, device.warp_size, device.warp_size), Constants(**plan.constants), counts)
    found = counts.numpy().reshape(len(products), plan.grid)
    assert found[:-1].sum(1).tolist() == [matrix.tiles for matrix in products[:-1]]
    for tiles, matrix in zip(found, products, strict=True):
        assert (np.diff(tiles) <= 0).all() and tiles[0] == matrix.tiles_per_block
