"""Per-head work on a query or key: its RMSNorm (Qwen3) and rotary position embedding (Su et al., 2021)."""

from .backend import float32, function, lane_index, rsqrt, sync_warp, warp_size, warp_sum


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
def rotate_head(plan, vector, at, table, position, factor):
    """Rotates dimensions d and d + head_dim / 2 by the position's angle and multiplies by `factor`, in place (warp).

    table: float32 [max_context * head_dim / 2 * 2], cosine and sine.
    """
    half = plan.head_dim // 2
    for d in range(lane_index(), half, warp_size()):
        cosine, sine = table[(position * half + d) * 2], table[(position * half + d) * 2 + 1]
        x, y = vector[at + d], vector[at + half + d]
        vector[at + d] = (x * cosine - y * sine) * factor
        vector[at + half + d] = (y * cosine + x * sine) * factor
    sync_warp()
