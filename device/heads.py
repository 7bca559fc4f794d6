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
from .cache import GRANULE, PAGE, clear_value, granule_place, key_place, value_place
from .packets import receive_batch, wait_for_packet
from .part import NO_PAGE, copy_half, place_of
from .rope import normalise_head, rotate_head
from .stream import wait_page
from .watch import QUERY


@function
def receive_heads(plan, stream, cache, channels, scratch, part, position, step, limits):
    """The group's queries to `scratch`, the new key and value where the part has them, and a fresh page (block)."""
    count = plan.group + (2 if part.owns or part.fresh != NO_PAGE else 0)
    number = warp_index()
    while number < count:
        receive_head(plan, stream, cache, channels, scratch, part, number, position, step, limits)
        number += plan.warps


@function
def receive_head(plan, stream, cache, channels, scratch, part, vector, position, step, limits):
    """A query of the group, or its key or value: normalised and rotated as it must be, rounded to bf16 (warp).

    Keys and values go to the cache, and into a fresh page's place in the ring, where what the cache has of the page has
    come while they were awaited.
    """
    half, n = plan.head_dim // 2, uint32(position % PAGE)
    is_new, is_value = vector >= plan.group, vector > plan.group
    source = part.head * plan.group + vector  # among all heads: queries, keys, values
    near, places = uint32(0), local(plan.head_words, uint32)
    page = granule_place(plan, part.layer, part.head, position - n)
    if is_new:
        source = plan.heads + (vector - plan.group) * plan.kv_heads + part.head
        find_places(plan, is_value, n, places)
        if part.fresh != NO_PAGE:
            near = place_of(plan, wait_page(plan, stream, part.fresh))
            near = uint32(near + (plan.page_elements if is_value else 0))
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
    if is_new:
        await_copies(0)
        sync_warp()
        begins = is_value and n == 0
        if part.fresh != NO_PAGE:
            store_new(plan, stream.ring, near, places, x, y, begins)
        store_new(plan, cache.values if is_value else cache.keys, page, places, x, y, begins)
    else:
        for turn in range(plan.head_turns):
            d = turn * warp_size() + lane_index()
            if d < half:
                to = vector * plan.head_dim + d
                scratch.queries[to], scratch.queries[to + half] = bf16_bits(x[turn]), bf16_bits(y[turn])


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
def store_new(plan, array, page, places, x, y, begins):
    """A key or value to the page at `array[page:]`; of values with which a page begins the rest is cleared (warp).

    places: of `find_places`. x, y: the lane's dimensions d and d + head_dim / 2.
    """
    for turn in range(plan.head_turns):
        d = turn * warp_size() + lane_index()
        if d < plan.head_dim // 2:
            array[page + places[2 * turn]] = bf16_bits(x[turn])
            array[page + places[2 * turn + 1]] = bf16_bits(y[turn])
            behind = uint32(1 if begins else PAGE)
            while behind < PAGE:
                granule = page + uint32(behind // uint32(GRANULE)) * plan.granule_elements
                clear_value(plan, array, granule, behind % uint32(GRANULE), d)
                behind = uint32(behind + 1)
