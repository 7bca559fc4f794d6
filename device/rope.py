"""Per-head work on a query or key: its RMSNorm (Qwen3) and rotary position embedding (Su et al., 2021)."""

from .backend import float32, function, lane_index, rsqrt, sync_warp, thread_index, warp_size, warp_sum


@function
def normalise_head(plan, vector, at, weights, row):
    """RMSNorm of `vector[at : at + head_dim]` with `weights[row :]`, in place (warp)."""
    squares = float32(0)
    for d in range(lane_index(), plan.head_dim, warp_size()):
        squares += vector[at + d] * vector[at + d]
    scale = rsqrt(warp_sum(squares) / float32(plan.head_dim) + plan.norm_eps)
    for d in range(lane_index(), plan.head_dim, warp_size()):
        vector[at + d] *= scale * weights[row + d]
    sync_warp()


@function
def load_rotation(plan, table, position, token, rotation):
    """The row of `table` for the pass's token number `token`, which is at `position`, for all layers (block).

    table: float32 [positions, head_dim / 2, cosine and sine]. rotation: float32 [tokens, head_dim].
    """
    for d in range(thread_index(), plan.head_dim, plan.block):
        rotation[token * plan.head_dim + d] = table[position * plan.head_dim + d]


@function
def rotate_head(plan, vector, at, rotation, token, factor):
    """Rotates dimensions d and d + head_dim / 2 by the token's angle and multiplies by `factor`, in place (warp).

    rotation: see `load_rotation`.
    """
    half = plan.head_dim // 2
    for d in range(lane_index(), half, warp_size()):
        angle = token * plan.head_dim + 2 * d
        cosine, sine = rotation[angle], rotation[angle + 1]
        x, y = vector[at + d], vector[at + half + d]
        vector[at + d] = (x * cosine - y * sine) * factor
        vector[at + half + d] = (y * cosine + x * sine) * factor
    sync_warp()
