"""How matrices are cut into tiles, and what of them fits a block."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from shmemtp.config import load_config
from shmemtp.errors import InputError
from shmemtp.model import Layout, Product, model_shape, pack, product, unpack
from shmemtp.planner import make_plan


def test_shape_of_llama_70b_on_8_pes():
    shape = model_shape(load_config("llama-3.1-70b"), 8)
    assert (shape.hidden, shape.heads, shape.kv_heads, shape.group) == (8192, 8, 1, 8)
    assert (shape.intermediate, shape.vocab, shape.total_vocab, shape.qkv_rows) == (3584, 16032, 128256, 1280)
    layout = Layout(shape, 128, 2048)
    assert layout.down == Product(pairs=4096, columns=3584, splits=2, tile_columns=1792, grid=128, batch=1)
    true = 80 * (1280 * 8192 + 8192 * 1024 + 3 * 3584 * 8192) + 16032 * 8192
    assert 1 <= layout.elements / true < 1.05


@pytest.mark.parametrize(
    ("name", "tp", "stages", "in_flight"),
    [
        ("llama-3.1-8b", 1, 44, 3),
        ("llama-3.1-8b", 2, 48, 3),
        ("llama-3.1-8b", 4, 48, 3),
        ("llama-3.1-8b", 8, 48, 2),
        ("llama-3.1-70b", 1, 32, 3),
        ("llama-3.1-70b", 8, 44, 3),
    ],
)
def test_an_h200_has_room_for_so_many_stages_of_the_ring(name, tp, stages, in_flight):
    """What else stands in shared memory must not push them out: four are 16 KiB of weights that hide a wait.

    Where a layer's hops take longer than its weights, fewer are under way: hops are faster then.
    """
    plan = make_plan(
        model_shape(load_config(name), tp), 4096, multiprocessors=132, shared_limit=227 << 10, block=480, warp=32
    )
    assert (plan.memory.stages, plan.memory.batch, plan.memory.in_flight) == (stages, 4, in_flight)


@pytest.mark.parametrize(("name", "tp"), [("llama-3.1-8b", 1), ("llama-3.1-8b", 8), ("tiny", 1)])
@pytest.mark.parametrize("block", [32, 128, 480])
@pytest.mark.parametrize("kilobytes", [64, 96, 128, 160, 227])
def test_a_ring_that_is_not_short_has_landed_before_it_comes_round(name, tp, block, kilobytes):
    """A tile in a stage, and what lay there before: when a warp waits for one, the other must have landed.

    The warp had the tile `warps` before it; that was fetched once all but `in_flight` batches before had landed.
    """
    plan = make_plan(model_shape(load_config(name), tp), 64, 132, kilobytes << 10, block, 32)
    memory = plan.memory
    if memory.fits and not memory.short_ring:
        for tile in range(memory.stages, 8 * memory.stages):
            had, before = tile - plan.warps, tile - memory.stages
            assert before // memory.batch <= had // memory.batch - memory.in_flight


@pytest.mark.parametrize("columns", [64, 512, 576, 640, 2048])
@pytest.mark.parametrize("head_dim", [64, 128, 192, 256])
def test_the_ring_has_room_for_pages(columns, head_dim):
    """At multiples of 16 bytes, in the place of any batch of tiles; one for each warp that attends."""
    config = replace(load_config("llama-3.1-8b"), head_dim=head_dim)
    memory = make_plan(model_shape(config, 1), 64, 132, 227 << 10, 480, 32, max_tile_columns=columns).memory
    place = memory.batch * memory.stage_elements
    assert place % 8 == 0 and place >= 2 * memory.page_elements
    if columns <= 640:  # larger tiles leave room for few
        assert memory.fits and memory.stages // memory.batch >= memory.attending >= 4


@pytest.mark.parametrize(
    ("tp", "context", "parts", "abreast"),
    [
        *[(8, 64, 2, 2), (8, 512, 16, 16), (8, 4096, 32, 32), (8, 4097, 64, 32), (8, 8193, 96, 32)],
        *[(8, 131072, 128, 32), (4, 131072, 64, 32), (1, 131072, 16, 16)],
    ],
)
def test_a_long_context_has_as_many_parts_as_blocks_can_take(tp, context, parts, abreast):
    """A part takes four pages, 128 positions, in one turn: parts beyond the first 32 begin behind 4096."""
    plan = make_plan(model_shape(load_config("llama-3.1-8b"), tp), context, 132, 227 << 10, 480, 32)
    assert (plan.parts, plan.abreast) == (parts, abreast)


@pytest.mark.parametrize(("name", "tps"), [("llama-3.1-8b", (1, 2, 4, 8)), ("llama-3.1-70b", (4, 8)), ("tiny", (1, 4))])
@pytest.mark.parametrize("wanted", [1, 16, 48, 64, 128])
def test_a_prompts_passes_fit_beside_nothing_else(name, tps, wanted):
    """Their regions do not overlap, and the ring holds whatever lies there; what all passes use stays in place."""
    for tp in tps:
        plan = make_plan(model_shape(load_config(name), tp), 4096, 132, 227 << 10, 480, 32, prefill_tokens=wanted)
        passes = plan.prompt
        assert passes.tokens % 16 == 0 and passes.tokens <= wanted
        if wanted == 1:
            assert passes.tokens == 0
            continue
        assert passes.tokens >= 16 and plan.shared_bytes <= 227 << 10
        offsets, sizes = passes.offsets, passes.sizes
        regions = sorted((offsets[each], offsets[each] + nbytes) for each, nbytes in sizes.items())
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(regions))
        assert passes.tiles >= 2 and all(work.places >= 2 for work in passes.works)
        assert all(offsets[each] == plan.memory.offsets[each] for each in ("flags", "keys", "numbers", "epoch"))


@pytest.mark.parametrize(
    ("tp", "multiprocessors", "local", "pairs"),
    [(1, 132, 16, 2), (8, 132, 2, 2), (1, 50, 44, 4), (1, 32, 64, 4), (8, 100, 3, 1)],
)
def test_a_warp_merges_two_pairs_of_a_block_or_more_where_it_would_take_turns(tp, multiprocessors, local, pairs):
    plan = make_plan(model_shape(load_config("llama-3.1-8b"), tp), 512, multiprocessors, 227 << 10, 480, 32)
    assert (plan.constants["attention_local"], plan.constants["merge_pairs"]) == (local, pairs)


@pytest.mark.parametrize("block", [0, 1000, 1024])
def test_no_block_has_so_many_threads(block):
    """The warp that feeds a block's threads counts too, and there are only whole warps."""
    with pytest.raises(InputError, match=f"a block of {block} threads"):
        make_plan(model_shape(load_config("tiny"), 1), 64, 4, 227 << 10, block, 32)


def test_product_takes_the_fewest_equal_splits():
    cut = product(pairs=10, columns=700, grid=4, max_tile_columns=320)
    assert cut == Product(pairs=10, columns=768, splits=3, tile_columns=256, grid=4, batch=4)
    assert (cut.pairs_per_block, cut.tiles_per_block, cut.tile_elements, cut.elements) == (4, 6, 1024, 24576)
    assert product(10, 700, 4, 704) == Product(10, 704, 1, 704, 4, 2)
    for wrong in (0, 8, 100):
        with pytest.raises(ValueError, match="multiple of 64"):
            product(10, 100, 4, wrong)


@pytest.mark.parametrize("pairs", [1, 3, 8, 13])
@pytest.mark.parametrize("columns", [8, 72, 197])
@pytest.mark.parametrize(("grid", "max_tile_columns"), [(1, 64), (4, 64), (5, 192), (16, 128), (2, 704)])
def test_pack(pairs, columns, grid, max_tile_columns):
    cut = product(pairs, columns, grid, max_tile_columns)
    assert cut.pairs_per_block % 2 == 0 and cut.pairs_per_block * grid >= pairs
    matrix = np.random.default_rng(0).integers(1, 1 << 16, (pairs, 2, columns)).astype(np.uint16)
    flat = pack(matrix, cut)
    assert flat.shape == (cut.elements,)
    padded = np.zeros((cut.pairs_per_block * grid, 2, cut.columns), np.uint16)
    padded[:pairs, :, :columns] = matrix
    for pair in range(len(padded)):
        block, local = divmod(pair, cut.pairs_per_block)
        quads, quad = cut.pairs_per_block // 2, local // 2
        for split in range(cut.splits):
            group = min(4, quads - quad // 4 * 4)
            t = quad // 4 * 4 * cut.splits + split * group + quad % 4
            first = t // cut.batch * cut.batch
            together = min(cut.batch, cut.tiles_per_block - first)
            start = (first * grid + block * together + t - first) * cut.tile_elements
            tile = flat[start : start + cut.tile_elements].reshape(2, 2, cut.tile_columns)
            right = padded[pair, :, split * cut.tile_columns : (split + 1) * cut.tile_columns]
            np.testing.assert_array_equal(tile[local % 2, 0], right[0])
            swapped = tile[local % 2, 1].reshape(-1, 2, 32)[:, ::-1]
            np.testing.assert_array_equal(swapped.reshape(-1), right[1])
    np.testing.assert_array_equal(unpack(flat, cut), padded[:pairs])


def test_pack_refuses_another_matrix():
    with pytest.raises(ValueError, match=r"shape \[4, 2, 8\] does not fit Product"):
        pack(np.zeros((4, 2, 8), np.uint16), product(5, 8, 1, 64))
