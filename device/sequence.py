"""The order in which a block reads its weights and its part of the context: qkv, keys and values, o, gate_up and down
of each layer, then lm_head where a next token is wanted, pass after pass.

A tile is four rows, a quad, by `columns` of bf16; the tiles of GROUP quads and one split of the columns follow each
other, and `plan.batch` tiles of a product stand together in memory (shmemtp/product.py) and come by one copy. Where a
batch of tiles lies, a page of the context (cache.py) may lie instead. The context comes in rounds: each of the
block's units of attention, once for each set of queries that are attended to together. Everything here is counted in 32
bits.
"""

from collections import namedtuple

from .backend import block_index, function, uint32
from .cache import first_position, granule_place, head_and_part, pages_of_part, settled_pages

QKV, CONTEXT, O_PROJ, GATE_UP, DOWN, LM_HEAD = range(6)
TILE_ROWS = 4  # this, the group and the columns, of which a tile has a multiple, are shmemtp/product.py's too
GROUP = 4
UNIT = TILE_ROWS * 64  # elements
Passes = namedtuple("Passes", "first_wanted position")
Passes.__doc__ = """Of a request: the number of its first pass that wants a next token and so reads lm_head; the
position of the first pass's token."""
# A cursor, uint32[CURSOR_FIELDS]: the next batch's first tile, how many tiles the block has of its product, their size
# in UNITs, where the product begins in the weights in UNITs, the product (QKV to LM_HEAD), its layer and pass. Of the
# context: the next page, how many the round has, the round, how many of the pages are settled.
FIRST, COUNT, SIZE, START, PRODUCT, LAYER, PASS, ROUND, SETTLED = range(9)
CURSOR_FIELDS = 9


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
def open_cursor(plan, cursor, passes):
    """Before the first batch of the first pass (thread)."""
    for field in range(CURSOR_FIELDS):
        cursor[field] = uint32(0)
    _find_product(plan, cursor, passes)


@function
def copy_cursor(cursor, other):
    """`other` is then where `cursor` is (thread)."""
    for field in range(CURSOR_FIELDS):
        other[field] = cursor[field]


@function
def next_batch(plan, cursor, passes):
    """The next batch, of weights: the element with which it begins, and its bytes (thread)."""
    tile, size = cursor[FIRST], cursor[SIZE]
    stored = min(uint32(plan.batch), uint32(all_tiles_of(plan, cursor[PRODUCT]) - tile))
    some = min(uint32(plan.batch), uint32(cursor[COUNT] - tile))  # the last block's own may be fewer
    at = uint32(cursor[START] + (tile * plan.grid + block_index() * stored) * size)
    _go_on(plan, cursor, passes, plan.batch)
    return at * UNIT, uint32(some * size * (2 * UNIT))


@function
def next_page(plan, cursor, passes):
    """The next batch, of the context: where its page begins in Cache.keys and Cache.values, and whether it is settled
    (thread)."""
    head, part = head_and_part(plan, unit_of_round(plan, cursor[ROUND]))
    at = granule_place(plan, cursor[LAYER], head, first_position(plan, part, cursor[FIRST]))
    settled = cursor[FIRST] < cursor[SETTLED]
    _go_on(plan, cursor, passes, 1)
    return at, settled


@function
def unit_of_round(plan, number):
    """The unit of attention of a round; beyond `plan.units` where there is none (thread)."""
    return uint32(block_index() + uint32(number // uint32(plan.query_sets)) * plan.grid)


@function
def _go_on(plan, cursor, passes, step):
    cursor[FIRST] += uint32(step)
    if cursor[FIRST] >= cursor[COUNT]:
        _find_product(plan, cursor, passes)


@function
def _pages(plan, cursor, passes):
    """How many pages the cursor's round has, all and settled (thread)."""
    unit, position = unit_of_round(plan, cursor[ROUND]), uint32(passes.position + cursor[PASS])
    if unit >= plan.units:
        return uint32(0), uint32(0)
    _, part = head_and_part(plan, unit)
    seen = min(uint32(position + 1), uint32(plan.cache_positions))
    return pages_of_part(plan, part, seen), settled_pages(plan, part, position)


@function
def _count(plan, cursor, product, passes):
    """Tiles of a product, or pages of the cursor's round (thread)."""
    if product == CONTEXT:
        pages, _ = _pages(plan, cursor, passes)
        return pages
    return uint32(tiles_of(plan, product))


@function
def _find_product(plan, cursor, passes):
    """Where a product's tiles, or a round's pages, are all read: the next of which the block has some (thread)."""
    product = cursor[PRODUCT]
    while cursor[FIRST] >= _count(plan, cursor, product, passes):
        cursor[FIRST] = uint32(0)
        cursor[ROUND] = uint32(cursor[ROUND] + 1)
        if product != CONTEXT or unit_of_round(plan, cursor[ROUND]) >= plan.units:
            product = _following(plan, cursor, product, passes)
            cursor[ROUND] = uint32(0)
    cursor[PRODUCT] = product
    cursor[COUNT] = _count(plan, cursor, product, passes)
    if product == CONTEXT:
        _, cursor[SETTLED] = _pages(plan, cursor, passes)
    cursor[SIZE] = uint32(columns_of(plan, product) * TILE_ROWS // UNIT)
    start = select(plan, product, 0, plan.o_start // UNIT, plan.gate_up_start // UNIT, plan.down_start // UNIT, 0)
    cursor[START] = uint32(cursor[LAYER] * (plan.layer_elements // UNIT) + start)


@function
def _following(plan, cursor, product, passes):
    """The product after another one, of the cursor's next layer or pass where it is the first again (thread)."""
    product = uint32(product + 1)
    if product == LM_HEAD:
        cursor[LAYER] += uint32(1)
        wanted = cursor[PASS] >= passes.first_wanted
        if cursor[LAYER] < plan.layers or not wanted:
            product = uint32(0)
        if cursor[LAYER] == plan.layers and not wanted:
            cursor[LAYER] = uint32(0)
            cursor[PASS] += uint32(1)
    elif product > LM_HEAD:
        product = cursor[LAYER] = uint32(0)
        cursor[PASS] += uint32(1)
    return product
