"""A token's queries, key and value at the blocks that attend: normalised, rotated, and where they are read."""

from .backend import (
    anew,
    as_float32,
    await_copies,
    float32,
    function,
    lane_index,
    local,
    sync_warp,
    uint32,
    warp_index,
    warp_size,
)
from .bfloat16 import bf16_bits
from .cache import GRANULE, PAGE, granule_place, key_place, value_place
from .packets import receive_batch, wait_for_packet
from .part import NO_PAGE, clear_half, copy_half, place_of
from .rope import normalise_head, rotate_head
from .stream import wait_page
from .watch import QUERY


@function
def receive_heads(plan, stream, cache, channels, scratch, part, position, step, limits):
    """The group's queries to `scratch`, the token's key and value where the part has them, and a fresh page (block)."""
    count = plan.group + (2 if part.owns or part.fresh != NO_PAGE else 0)
    number = warp_index() - 1 if warp_index() > 0 else plan.warps - 1  # the first warp has rows to publish
    while number < count:
        receive_head(plan, stream, cache, channels, scratch, part, number, position, step, limits)
        number += plan.warps


@function
def receive_head(plan, stream, cache, channels, scratch, part, vector, position, step, limits):
    """A query of the group, or its key or value: normalised and rotated as it must be, as bf16 to `scratch` (warp).

    Keys and values go into a fresh page's place in the ring, too, where what the cache has of the page has come while
    they were awaited.
    """
    half, n = plan.head_dim // 2, uint32(position % PAGE)
    is_new, is_value = vector >= plan.group, vector > plan.group
    source = part.head * plan.group + vector  # among all heads: queries, keys, values
    near, places = uint32(0), local(plan.head_words, uint32)
    if is_new:
        source = plan.heads + (vector - plan.group) * plan.kv_heads + part.head
        if part.fresh != NO_PAGE:
            find_places(plan, is_value, n, places)
            near = place_of(plan, wait_page(plan, stream, part.fresh))
            near = uint32(near + (plan.page_elements if is_value else 0))
            if part.owns and n == 0:
                clear_half(plan, stream.ring, near)
            else:
                copy_half(plan, stream, cache, part, part.fresh, is_value, near)
        if not part.owns:
            await_copies(0)
            return
    at = plan.channel_qkv + 4 * ((step & 1) * plan.qkv_pairs + source * half)
    data, x, y = local(plan.head_words, uint32), local(plan.head_turns, float32), local(plan.head_turns, float32)
    wait_for_packet(channels, at, uint32(step), limits, QUERY)
    receive_batch(
        *(channels, at, lane_index(), warp_size(), half),
        *(uint32(step), data, limits, QUERY, 0, plan.head_turns),
    )
    for turn in range(plan.head_turns):
        x[turn], y[turn] = as_float32(data[2 * turn]), as_float32(data[2 * turn + 1])
    if not is_value:
        if plan.qk_norm:
            normalise_head(plan, x, y, cache.head_norms, (2 * part.layer + (1 if is_new else 0)) * plan.head_dim)
        rotate_head(plan, x, y, scratch.rotation, 0, float32(1) if is_new else plan.score_scale)
    for turn in range(plan.head_turns):
        d = turn * warp_size() + lane_index()
        if d < half:
            to = vector * plan.head_dim + d
            scratch.heads[to], scratch.heads[to + half] = bf16_bits(x[turn]), bf16_bits(y[turn])
    if is_new and part.fresh != NO_PAGE:
        await_copies(0)
        sync_warp()
        store_new(plan, scratch.heads, vector, stream.ring, near, places)


@function
def keep_new(plan, cache, scratch, part, position):
    """The token's key and value from `scratch` to the cache (block); by its last warps, for the first ones attend."""
    number, n, places = uint32(plan.warps - 1 - warp_index()), uint32(position % PAGE), local(plan.head_words, uint32)
    page = granule_place(plan, part.layer, part.head, position - n)
    while number < 2:
        array = cache.values if number == 1 else cache.keys
        if n == 0:
            clear_half(plan, array, page)
            sync_warp()
        find_places(plan, number == 1, n, places)
        store_new(plan, scratch.heads, plan.group + number, array, page, places)
        number = uint32(number + plan.warps)


@function
def find_places(plan, is_value, n, places):
    """Where a page has dimensions d and d + head_dim / 2 of position n's key or value, for the lane's d (warp)."""
    granule, row = uint32(n // uint32(GRANULE)) * plan.granule_elements, uint32(n % uint32(GRANULE))
    for turn in range(plan.head_turns):
        d, half = uint32(turn * warp_size() + lane_index()), plan.head_dim // 2
        first = value_place(row, d) if is_value else key_place(row, d)
        second = value_place(row, d + half) if is_value else key_place(row, d + half)
        # found before a wait, not after it
        places[2 * turn], places[2 * turn + 1] = anew(uint32(granule + first)), anew(uint32(granule + second))


@function
def store_new(plan, heads, vector, array, page, places):
    """The lane's share of a key or value, number `vector` of `heads`, to the page at `array[page:]` (warp).

    heads: of Scratch. places: of `find_places`.
    """
    for turn in range(plan.head_turns):
        d, half = turn * warp_size() + lane_index(), plan.head_dim // 2
        if d < half:
            at = vector * plan.head_dim + d
            array[page + places[2 * turn]], array[page + places[2 * turn + 1]] = heads[at], heads[at + half]
