"""Where a token's time goes: each block notes its multiprocessor's clock at the ends of a layer's phases.

Compiled in only where the plan asks for it (`plan.trace`); scripts/bench_decode.py --trace reads it.
"""

from .backend import block_index, cycles, function, thread_index

PHASES = (  # of each half of a layer
    "input",
    "column-parallel product",
    "attention",
    "published",
    "received",
    "row-parallel product",
    "reduced",
    "hidden received",
)
INPUT, COLUMN_PARALLEL, ATTENDED, PUBLISHED, RECEIVED, ROW_PARALLEL, REDUCED, HIDDEN = range(len(PHASES))
MARKS = 2 * len(PHASES)


@function
def mark(plan, trace, layer, half, phase):
    """trace: int64 [layers, MARKS, blocks], the newest token's; a half without attention leaves that mark 0 (block)."""
    if plan.trace and thread_index() == 0:
        trace[(layer * MARKS + half * (MARKS // 2) + phase) * plan.grid + block_index()] = cycles()
