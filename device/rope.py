"""Per-head work on a query or key: its RMSNorm (Qwen3) and rotary position embedding (Su et al., 2021).

A warp has a head in its registers: dimensions d and d + head_dim / 2, which rotate together, in x[turn] and y[turn] of
lane d % warp_size, where turn is d / warp_size.
"""

from .backend import float32, function, lane_index, rsqrt, thread_index, warp_size, warp_sum


@function
def normalise_head(plan, x, y, weights, row):
    """RMSNorm with `weights[row :]`, in place (warp)."""
    half = plan.head_dim // 2
    squares = float32(0)
    for turn in range(plan.head_turns):
        if turn * warp_size() + lane_index() < half:
            squares += x[turn] * x[turn] + y[turn] * y[turn]
    scale = rsqrt(warp_sum(squares) / float32(plan.head_dim) + plan.norm_eps)
    for turn in range(plan.head_turns):
        d = turn * warp_size() + lane_index()
        if d < half:
            x[turn] *= scale * weights[row + d]
            y[turn] *= scale * weights[row + half + d]


@function
def load_rotation(plan, table, position, rotation):
    """The row of `table` for `position`, for all layers (block).

    table: float32 [positions, head_dim / 2, cosine and sine]. rotation: float32 [head_dim].
    """
    for d in range(thread_index(), plan.head_dim, plan.block):
        rotation[d] = table[position * plan.head_dim + d]


@function
def rotate_pair(x, y, table, at, factor):
    """Two dimensions by the angle of which `table[at:]` has the cosine and the sine, times `factor` (thread)."""
    cosine, sine = table[at], table[at + 1]
    return (x * cosine - y * sine) * factor, (y * cosine + x * sine) * factor


@function
def rotate_head(plan, x, y, table, row, factor):
    """Rotates by the angles in row `row` of a table and multiplies by `factor`, in place (warp)."""
    for turn in range(plan.head_turns):
        d = turn * warp_size() + lane_index()
        if d < plan.head_dim // 2:
            x[turn], y[turn] = rotate_pair(x[turn], y[turn], table, row * plan.head_dim + 2 * d, factor)
