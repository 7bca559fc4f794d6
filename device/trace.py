"""Where a token's time goes: each block notes its multiprocessor's clock at the ends of a layer's phases.

Compiled in only where the plan asks for it (`plan.trace`); scripts/bench_decode.py --trace reads it.
"""

from .backend import block_index, cycles, function, thread_index

PHASES = (
    "input",
    "qkv product",
    "qkv published",
    "attention",
    "merge",
    "attention received",
    "o product",
    "o reduced",
    "hidden received",
    "gate_up product",
    "activation received",
    "down product",
    "down reduced",
    "next hidden received",
)
(
    INPUT,
    QKV,
    QKV_PUBLISHED,
    ATTENDED,
    MERGED,
    ATTENTION_RECEIVED,
    O_PRODUCT,
    O_REDUCED,
    HIDDEN_RECEIVED,
    GATE_UP,
    ACTIVATION_RECEIVED,
    DOWN,
    DOWN_REDUCED,
    NEXT_RECEIVED,
) = range(len(PHASES))
MARKS = len(PHASES)


@function
def mark(plan, trace, layer, phase):
    """trace: int64 [layers, MARKS, blocks], of the newest token (thread 0 of a block writes)."""
    if plan.trace and thread_index() == 0:
        trace[(layer * MARKS + phase) * plan.grid + block_index()] = cycles()
