"""Where the KV cache has its positions: every one belongs to one part of the context."""

import numpy as np
import pytest

from shmemtp.device import Constants, kernel
from shmemtp.device.cache import (
    PAGE,
    first_position,
    owns,
    pages_of_part,
    parts_in_use,
    positions_of_part,
)

CONTEXTS = (1, 31, 32, 33, 200, 600, 1279)
MOST = 1280


@kernel
def describe(plan, contexts, counts, pages, used, owners, firsts):
    """One thread; `owners` has a row for each position, `firsts` for each of a part's pages."""
    for part in range(plan.parts):
        for i in range(contexts.size):
            counts[i * plan.parts + part] = positions_of_part(plan, part, contexts[i])
            pages[i * plan.parts + part] = pages_of_part(plan, part, contexts[i])
            used[i] = parts_in_use(plan, contexts[i])
        for position in range(plan.most):
            owners[position * plan.parts + part] = 1 if owns(plan, part, position) else 0
        for page in range(plan.most // PAGE):
            firsts[page * plan.parts + part] = first_position(plan, part, page)


def deal(parts, abreast, depth):
    """The part of each position, as device/cache.py's docstring deals them."""
    owners, turn = [], 0
    while len(owners) < MOST:
        for _ in range(depth):
            for side in range(abreast):
                owners += [turn * abreast + side] * PAGE
        turn = (turn + 1) % (parts // abreast)
    return np.array(owners[:MOST])


@pytest.mark.parametrize(
    ("parts", "abreast", "depth"), [(1, 1, 1), (1, 1, 8), (3, 3, 2), (4, 4, 1), (4, 1, 2), (6, 2, 3), (8, 4, 1)]
)
def test_positions_are_dealt_to_parts(device, run, parts, abreast, depth):
    plan = Constants(parts=parts, abreast=abreast, depth=depth, most=MOST)
    contexts, used = device.array(len(CONTEXTS), np.int64), device.array(len(CONTEXTS), np.int64)
    contexts.fill(np.array(CONTEXTS))
    counts, pages = (device.array(len(CONTEXTS) * parts, np.int64) for _ in range(2))
    owners, firsts = device.array(MOST * parts, np.int64), device.array(MOST // PAGE * parts, np.int64)
    run(describe, (1, 1, 1), plan, contexts, counts, pages, used, owners, firsts)
    dealt = deal(parts, abreast, depth)
    np.testing.assert_array_equal(owners.numpy().reshape(MOST, parts), dealt[:, None] == np.arange(parts))
    for i, context in enumerate(CONTEXTS):
        expected = np.bincount(dealt[:context], minlength=parts)
        np.testing.assert_array_equal(counts.numpy().reshape(-1, parts)[i], expected)
        np.testing.assert_array_equal(pages.numpy().reshape(-1, parts)[i], -(-expected // PAGE))
        assert 0 < np.count_nonzero(expected) == np.flatnonzero(expected).max() + 1 <= used.numpy()[i] <= parts
    for part in range(parts):
        own = np.flatnonzero(dealt == part)[::PAGE]
        np.testing.assert_array_equal(firsts.numpy().reshape(-1, parts)[: len(own), part], own)
