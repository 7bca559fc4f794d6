"""What a prompt's products read, in shared memory: step after step, some under way while one is multiplied.

A slice is SLICE columns of the block's rows of a matrix and of all tokens' inputs. A step is as many slices, one after
another, as warps multiply at the same time, each of them its own; the ring has room for some steps of each product.

Of the weights all threads copy pieces of 16 bytes: in memory a row's columns lie in tiles, as generated tokens need
them (shmemtp/product.py). The inputs come by the copy engine, slice after slice as they lie in device memory. Both
stand as `add_products` wants them (device/backend/README.md).
"""

from collections import namedtuple

from ..backend import (
    anew,
    barrier_end,
    barrier_expect,
    barrier_fence,
    barrier_init,
    barrier_wait,
    block_index,
    bulk_load,
    copy_async,
    function,
    int64,
    shared,
    thread_index,
    uint16,
    uint32,
    uint64,
)
from ..sequence import GROUP, TILE_ROWS, all_tiles_of, columns_of, select

SLICE, PIECE = 64, 8  # elements: a piece is what one copy brings
MOST_PLACES = 8
Ring = namedtuple("Ring", "slices landed")
Ring.__doc__ = """slices: uint16 bf16, of each place its step's, [parts, rows and tokens, SLICE]. landed: uint64
mbarriers in shared memory, of the inputs, one for each place."""


@function
def open_ring(plan):
    """The ring; a barrier of all threads must follow (all threads)."""
    ring = Ring(
        shared(plan.shared_ring, plan.ring_elements, uint16),
        shared(plan.shared_landed, MOST_PLACES, uint64),
    )
    if thread_index() == 0:
        begin_landings(ring)
    return ring


@function
def begin_landings(ring):
    """Before each product all places wait for their first landing again (thread 0; a barrier of all must follow)."""
    for place in range(MOST_PLACES):
        barrier_init(ring.landed, place)
    barrier_fence()


@function
def end_landings(ring):
    """The barriers' memory may serve others, once all threads have met (thread 0)."""
    for place in range(MOST_PLACES):
        barrier_end(ring.landed, place)


@function
def input_word(plan, token, word):
    """Where columns 2 * word and 2 * word + 1 of a token stand in a product's inputs, uint32 slice after slice."""
    number, within = uint32(word) // uint32(SLICE // 2), uint32(word) % uint32(SLICE // 2)
    row = uint32(uint32(token) // uint32(16) * 8 + token % 8)  # shared by tokens 8 apart
    four = uint32(within >> 1) ^ uint32(token & 1)
    return uint32(number * (plan.tokens * (SLICE // 2)) + row * SLICE + 4 * four + 2 * (within & 1) + (token >> 3 & 1))


@function
def set_of(plan):
    """The number of the block's rows: `plan.sharing` neighbouring blocks share those of all of them (thread)."""
    return uint32(uint32(block_index()) // uint32(plan.sharing))


@function
def tokens_of(plan, count):
    """The block's tokens of the `count` of a pass, which those that share rows divide: the first, how many (thread)."""
    if plan.sharing == 1:
        return uint32(0), uint32(count)
    each = uint32(
        uint32(count + (plan.sharing * plan.vectors - 1)) // uint32(plan.sharing * plan.vectors) * plan.vectors
    )
    begin = uint32(anew(uint32(block_index())) % uint32(plan.sharing) * each)
    return begin, min(each, uint32(count - begin)) if begin < count else uint32(0)


@function
def splits_of(plan, product):
    """In how many splits a product's columns are cut (thread)."""
    return select(plan, product, plan.qkv_splits, plan.o_splits, plan.gate_up_splits, plan.down_splits, 1)


@function
def rows_of(plan, product):
    """How many rows of a product the block multiplies, whole quads (thread)."""
    rows = uint32(select(plan, product, plan.qkv_rows, plan.o_rows, plan.gate_up_rows, plan.down_rows, 0))
    most = select(plan, product, plan.qkv_all_rows, plan.o_all_rows, plan.gate_up_all_rows, plan.down_all_rows, 0)
    if most == rows * plan.sets:
        return rows
    before = uint32(set_of(plan) * rows)
    return min(rows, uint32(most - before)) if before < most else uint32(0)


@function
def room_for_rows(plan, product):
    """For how many a slice has room: as many as its warps multiply (thread)."""
    return select(plan, product, plan.qkv_room, plan.o_room, plan.gate_up_room, plan.down_room, 0)


@function
def parts_of(plan, product):
    """How many slices a step has (thread)."""
    return select(plan, product, plan.qkv_parts, plan.o_parts, plan.gate_up_parts, plan.down_parts, 1)


@function
def places_of(plan, product):
    """For how many steps the ring has room, 2 at least (thread)."""
    return select(plan, product, plan.qkv_places, plan.o_places, plan.gate_up_places, plan.down_places, 2)


@function
def slices_of(plan, product):
    """How many slices a product has (thread)."""
    return uint32(splits_of(plan, product) * (columns_of(plan, product) // SLICE))


@function
def place_of(plan, product, step):
    """The ring's place where a step is (thread)."""
    return uint32(step) % uint32(places_of(plan, product))


@function
def slice_place(plan, product, step, part):
    """The element of `Ring.slices` where a step's slice begins; the tokens' inputs stand behind its rows (thread)."""
    rows = room_for_rows(plan, product) + plan.block_tokens
    return uint32((place_of(plan, product, step) * parts_of(plan, product) + part) * (rows * SLICE))


@function
def product_place(plan, product, layer):
    """Where a layer's matrix begins in the weights, in SLICEs (thread)."""
    start = select(plan, product, 0, plan.o_start // SLICE, plan.gate_up_start // SLICE, plan.down_start // SLICE, 0)
    return uint32(anew(layer) * (plan.layer_elements // SLICE) + start)


@function
def row_place(plan, product, row, number):
    """Where a slice of one of the block's rows begins in its matrix, in SLICEs: see `Product.tile_number` (thread)."""
    each, splits = uint32(columns_of(plan, product) // SLICE), uint32(splits_of(plan, product))
    stored, batch = uint32(all_tiles_of(plan, product)), uint32(plan.batch)
    rows, split = uint32(stored // splits * TILE_ROWS), uint32(number // each)
    block = uint32(set_of(plan) * plan.sharing)
    while plan.sharing > 1 and row >= rows:
        block, row = uint32(block + 1), uint32(row - rows)
    group = uint32(row // uint32(GROUP * TILE_ROWS))
    if stored % (GROUP * splits) == 0 and batch == GROUP:  # whole groups of quads, and each of them is fetched together
        line = uint32((uint32(group * splits + split) * plan.grid + block) * (GROUP * TILE_ROWS))
        line = uint32(line + row % uint32(GROUP * TILE_ROWS))
    else:
        quad, first = uint32(row // uint32(TILE_ROWS)), uint32(group * GROUP)
        tile = uint32(first * splits + split * min(uint32(GROUP), uint32(stored // splits - first)) + quad - first)
        begin = uint32(tile // batch * batch)
        tiles = uint32(begin * plan.grid + block * min(batch, uint32(stored - begin)) + tile - begin)
        line = uint32(tiles * TILE_ROWS + row % uint32(TILE_ROWS))
    return uint32(line * each + number - split * each)


@function
def fetch_weights(plan, ring, weights, product, layer, step):
    """Starts the copies of a step's rows; `commit_copies` must follow (all threads)."""
    rows, start = rows_of(plan, product), product_place(plan, product, layer)
    parts = parts_of(plan, product)
    most = select(plan, product, plan.qkv_rows, plan.o_rows, plan.gate_up_rows, plan.down_rows, 0)
    pieces = uint32(most * (SLICE // PIECE))
    i = anew(uint32(thread_index()))
    while i < parts * pieces:
        part = uint32(i // pieces) if parts > 1 else uint32(0)
        n = uint32(i - part * pieces)
        row, piece = uint32(n // uint32(SLICE // PIECE)), uint32(n % uint32(SLICE // PIECE))
        if row < rows:
            at = int64(uint32(start + row_place(plan, product, row, uint32(step * parts + part)))) * SLICE
            to = uint32(slice_place(plan, product, step, part) + n * PIECE)
            copy_async(ring.slices, to, weights, at + int64(piece * PIECE))
        i = uint32(i + plan.block)


@function
def fetch_inputs(plan, ring, x, product, step, count):
    """Starts the copies of a step's inputs of the block's tokens, and of some more to make whole groups (thread).

    count: tokens of the pass.
    """
    parts, place = parts_of(plan, product), place_of(plan, product, step)
    begin, some = tokens_of(plan, anew(count))
    groups = uint32(uint32(some + (plan.vectors - 1)) // uint32(plan.vectors))
    nbytes = uint32(groups * (2 * SLICE * plan.vectors))
    start = select(plan, product, plan.x_qkv, plan.x_o, plan.x_gate_up, plan.x_down, 0)
    barrier_expect(ring.landed, place, parts * nbytes)
    for part in range(parts):
        at = uint32(start + uint32(uint32(step * parts + part) * plan.tokens + begin) * (SLICE // 2))
        to = uint32(slice_place(plan, product, step, part) + room_for_rows(plan, product) * SLICE)
        bulk_load(ring.slices, to, x, at, nbytes, ring.landed, place, once=False)


@function
def wait_inputs(plan, ring, product, step):
    """Returns when a step's inputs have landed (all threads).

    Without a limit: thread 0 has started their copies, which depend on no PE and no other block.
    """
    turn = uint32(uint32(step) // uint32(places_of(plan, product)))
    barrier_wait(ring.landed, place_of(plan, product, step), turn & uint32(1))
