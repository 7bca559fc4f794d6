"""The order in which a block reads its weights in a prompt's passes: stages of the tiles of a group of quads.

Of each product of each layer, as in ../sequence.py, but the groups of one split after those of another: so that its
columns of the tokens' inputs, a chunk, serve all of them. Pass after pass the same.
"""

from ..backend import block_index, function, uint32
from ..sequence import GROUP, LM_HEAD, TILE_ROWS, UNIT, all_tiles_of, columns_of, select, tiles_of

STAGE_ROWS = GROUP * TILE_ROWS  # which a warp multiplies at once
# A cursor, uint32[CURSOR_FIELDS]: the next stage's product (QKV to DOWN) and layer, its split and its first quad; and
# of the product its splits, the block's quads, for how many tiles each block has room in memory, their size in UNITs,
# and where they begin in the weights in UNITs.
PRODUCT, LAYER, SPLIT, QUAD, SPLITS, QUADS, STORED, SIZE, START = range(9)
CURSOR_FIELDS = 9


@function
def splits_of(plan, product):
    """In how many splits a product's columns are cut (thread)."""
    return select(plan, product, plan.qkv_splits, plan.o_splits, plan.gate_up_splits, plan.down_splits, 1)


@function
def quads_of(plan, product):
    """How many tiles the block has of each split of a product; lm_head is none of a prompt's (thread)."""
    if product == LM_HEAD:
        return uint32(0)
    return uint32(uint32(tiles_of(plan, product)) // uint32(splits_of(plan, product)))


@function
def stages_of(plan, product):
    """How many stages these are (thread)."""
    return uint32(quads_of(plan, product) + uint32(GROUP - 1)) // uint32(GROUP)


@function
def open_cursor(plan, cursor):
    """Before the first stage of the first layer (thread)."""
    for field in range(CURSOR_FIELDS):
        cursor[field] = uint32(0)
    _find_product(plan, cursor)


@function
def tiles_at(cursor):
    """How many tiles the next stage has (thread)."""
    return min(uint32(GROUP), uint32(cursor[QUADS] - cursor[QUAD]))


@function
def first_tile(cursor):
    """The number of the next stage's first tile: see `Product.tile_number` in shmemtp/product.py (thread)."""
    return uint32(cursor[QUAD] * cursor[SPLITS] + cursor[SPLIT] * tiles_at(cursor))


@function
def run_of(plan, cursor, tile):
    """Where a tile begins in the weights, an element, and how many from it on stand together there (thread)."""
    first = uint32(tile // uint32(plan.batch) * uint32(plan.batch))
    together = min(uint32(plan.batch), uint32(cursor[STORED] - first))
    tiles = uint32(first * plan.grid + block_index() * together + (tile - first))
    return uint32(cursor[START] + tiles * cursor[SIZE]) * UNIT, uint32(first + together - tile)


@function
def tile_bytes(cursor):
    """Of each of the next stage's tiles (thread)."""
    return uint32(cursor[SIZE] * (2 * UNIT))


@function
def go_to_next_stage(plan, cursor):
    """(thread)"""
    cursor[QUAD] += uint32(GROUP)
    if cursor[QUAD] >= cursor[QUADS]:
        cursor[QUAD] = uint32(0)
        cursor[SPLIT] += uint32(1)
        if cursor[SPLIT] == cursor[SPLITS]:
            cursor[PRODUCT] += uint32(1)
            _find_product(plan, cursor)


@function
def _find_product(plan, cursor):
    """From `cursor[PRODUCT]` on, the next one of which the block has rows, as it has of o; its first stage (thread)."""
    product = cursor[PRODUCT]
    while quads_of(plan, product) == 0:
        if product < LM_HEAD:
            product = uint32(product + 1)
        else:
            product = uint32(0)
            cursor[LAYER] = uint32(cursor[LAYER] + 1) if cursor[LAYER] + 1 < plan.layers else uint32(0)
    cursor[PRODUCT] = product
    cursor[SPLIT] = uint32(0)
    cursor[SPLITS], cursor[QUADS] = uint32(splits_of(plan, product)), quads_of(plan, product)
    cursor[STORED] = uint32(all_tiles_of(plan, product))
    cursor[SIZE] = uint32(columns_of(plan, product) * TILE_ROWS // UNIT)
    start = select(plan, product, 0, plan.o_start // UNIT, plan.gate_up_start // UNIT, plan.down_start // UNIT, 0)
    cursor[START] = uint32(cursor[LAYER] * (plan.layer_elements // UNIT) + start)
