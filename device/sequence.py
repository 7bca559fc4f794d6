"""The order in which a block reads its weights: qkv, o, gate_up and down of each layer, then lm_head where a next token
is wanted, pass after pass.

A tile is four rows, a quad, by `columns` of bf16; the tiles of GROUP quads and one split of the columns follow each
other, and `plan.batch` tiles of a product stand together in memory (shmemtp/product.py) and come by one copy.
Everything here is counted in 32 bits.
"""

from .backend import block_index, function, uint32

QKV, O_PROJ, GATE_UP, DOWN, LM_HEAD = range(5)
TILE_ROWS = 4  # this, the group and the columns, of which a tile has a multiple, are shmemtp/product.py's too
GROUP = 4
UNIT = TILE_ROWS * 64  # elements
# A cursor, uint32[CURSOR_FIELDS]: the next batch's first tile, how many tiles the block has of its product, their size
# in UNITs, where the product begins in the weights in UNITs, the product (QKV to LM_HEAD), its layer and pass.
FIRST, COUNT, SIZE, START, PRODUCT, LAYER, PASS = range(7)
CURSOR_FIELDS = 7


@function
def select(plan, product, qkv, o, gate_up, down, lm_head):
    """The value for a product's number (thread)."""
    if product < GATE_UP:
        return qkv if product == QKV else o
    if product < LM_HEAD:
        return gate_up if product == GATE_UP else down
    return lm_head


@function
def own_tiles(plan, all_tiles, tiles):
    """How many of a matrix's tiles, `tiles` to each block in order, are this block's: the last ones may lack some."""
    if all_tiles == tiles * plan.grid:
        return tiles
    return max(0, min(tiles, all_tiles - tiles * block_index()))


@function
def tiles_of(plan, product):
    """Tiles of a product that this block reads. Of lm_head all have the same, padding included."""
    return select(
        *(plan, product),
        own_tiles(plan, plan.qkv_all_tiles, plan.qkv_tiles),
        own_tiles(plan, plan.o_all_tiles, plan.o_tiles),
        own_tiles(plan, plan.gate_up_all_tiles, plan.gate_up_tiles),
        own_tiles(plan, plan.down_all_tiles, plan.down_tiles),
        plan.lm_head_tiles,
    )


@function
def all_tiles_of(plan, product):
    """Tiles of a product that each block has room for in memory."""
    return select(plan, product, plan.qkv_tiles, plan.o_tiles, plan.gate_up_tiles, plan.down_tiles, plan.lm_head_tiles)


@function
def columns_of(plan, product):
    """Columns of a product's tiles."""
    return select(
        *(plan, product, plan.qkv_columns, plan.o_columns, plan.gate_up_columns, plan.down_columns),
        plan.lm_head_columns,
    )


@function
def stages_of(plan, product):
    """How many stages a block's tiles of a product take: whole batches (thread)."""
    return uint32(uint32(tiles_of(plan, product) + (plan.batch - 1)) // uint32(plan.batch) * uint32(plan.batch))


@function
def open_cursor(plan, cursor, first_wanted):
    """Before the first batch of the first pass. first_wanted: of `next_batch` (thread)."""
    for field in range(CURSOR_FIELDS):
        cursor[field] = uint32(0)
    _find_product(plan, cursor, first_wanted)


@function
def copy_cursor(cursor, other):
    """`other` is then where `cursor` is (thread)."""
    for field in range(CURSOR_FIELDS):
        other[field] = cursor[field]


@function
def next_batch(plan, cursor, first_wanted):
    """The next batch: the element of the weights with which it begins, and its bytes (thread).

    first_wanted: the number of the first pass that wants a next token and so reads lm_head.
    """
    tile, size = cursor[FIRST], cursor[SIZE]
    stored = min(uint32(plan.batch), uint32(all_tiles_of(plan, cursor[PRODUCT]) - tile))
    some = min(uint32(plan.batch), uint32(cursor[COUNT] - tile))  # the last block's own may be fewer
    at = uint32(cursor[START] + (tile * plan.grid + block_index() * stored) * size)
    cursor[FIRST] = uint32(tile + plan.batch)
    if cursor[FIRST] >= cursor[COUNT]:
        _find_product(plan, cursor, first_wanted)
    return at * UNIT, uint32(some * size * (2 * UNIT))


@function
def _find_product(plan, cursor, first_wanted):
    """Where a product's tiles are all read: the next one of which the block has some (thread)."""
    product = cursor[PRODUCT]
    while cursor[FIRST] >= uint32(tiles_of(plan, product)):
        cursor[FIRST] = uint32(0)
        product = uint32(product + 1)
        if product == LM_HEAD:
            cursor[LAYER] += uint32(1)
            wanted = cursor[PASS] >= first_wanted
            if cursor[LAYER] < plan.layers or not wanted:
                product = uint32(0)
            if cursor[LAYER] == plan.layers and not wanted:
                cursor[LAYER] = uint32(0)
                cursor[PASS] += uint32(1)
        elif product > LM_HEAD:
            product = cursor[LAYER] = uint32(0)
            cursor[PASS] += uint32(1)
    cursor[PRODUCT] = product
    cursor[COUNT] = uint32(tiles_of(plan, product))
    cursor[SIZE] = uint32(columns_of(plan, product) * TILE_ROWS // UNIT)
    start = select(plan, product, 0, plan.o_start // UNIT, plan.gate_up_start // UNIT, plan.down_start // UNIT, 0)
    cursor[START] = uint32(cursor[LAYER] * (plan.layer_elements // UNIT) + start)
