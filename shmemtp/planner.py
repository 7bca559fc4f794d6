"""Chooses how a model runs on a device: how many blocks share the work, and in how many parts its context lies."""

from .errors import InputError
from .model import Layout, ModelShape
from .plan import PAGE, Plan
from .product import TILE_ROWS, ceil_div
from .prompt_plan import LEAST_TOKENS, MOST_TOKENS
from .shared_memory import pages_of_a_turn

__all__ = ["MOST_TOKENS", "make_plan"]

MOST_THREADS = 1024  # of a block, those that feed it included
ABREAST = 32  # parts of a context that take positions in turn: one to a lane when they are merged


def make_plan(
    shape: ModelShape,
    max_context: int,
    multiprocessors: int,
    shared_limit: int,
    block: int,
    warp: int,
    max_tile_columns: int = 512,
    put: bool = False,
    prefill_tokens: int = 1,
    trace: bool = False,
) -> Plan:
    """The plan for a model on a device of `multiprocessors` and `shared_limit` bytes of shared memory a block.

    Raises `InputError` where `prefill_tokens` is neither 1 nor a multiple of LEAST_TOKENS up to MOST_TOKENS, or no
    block can have so many threads.
    """
    if block % warp or not 1 <= block <= MOST_THREADS - warp:
        raise InputError(f"a block of {block} threads: it must be a multiple of {warp}, at most {MOST_THREADS - warp}")
    if prefill_tokens != 1 and not (0 < prefill_tokens <= MOST_TOKENS and prefill_tokens % LEAST_TOKENS == 0):
        rule = f"it must be 1 or a multiple of {LEAST_TOKENS} up to {MOST_TOKENS}"
        raise InputError(f"prefill_tokens is {prefill_tokens}: {rule}")
    grid = _grid(shape, multiprocessors, max_tile_columns)
    most = max(1, grid // shape.kv_heads)
    abreast = min(most, ABREAST, ceil_div(max_context, PAGE))
    turns = ceil_div(max_context, abreast * PAGE * pages_of_a_turn(block // warp))
    parts = abreast * min(turns, most // abreast)
    return Plan(
        *(shape, grid, block, warp, max_tile_columns, max_context, parts, abreast, put),
        *(shared_limit, prefill_tokens, trace),
    )


def _grid(shape: ModelShape, multiprocessors: int, max_tile_columns: int) -> int:
    """Blocks: one a multiprocessor or some fewer, whichever pads the weights least.

    Every block must own a tile's rows of the hidden state: the channels' slots are safe to use again because every
    block takes part in every exchange of it.
    """
    quads = ceil_div(shape.hidden, TILE_ROWS)
    most = min(multiprocessors, quads)
    fitting = [n for n in range(1, most + 1) if ceil_div(quads, ceil_div(quads, n)) == n]
    near = [n for n in fitting if n >= 0.9 * most] or fitting[-1:]
    return min(near, key=lambda n: (Layout(shape, n, max_tile_columns).elements, -n))
