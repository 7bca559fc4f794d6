"""The kernels of bench_collectives and bench_fused: one collective after another, with no launch between them."""

from pace import INPUTS, OUTPUTS, following, next_place, stamp

from shmemtp.device import (
    all_gather_grid,
    all_reduce_grid,
    all_reduce_norm_grid,
    all_to_all_grid,
    all_to_all_v_grid,
    barrier_all_block,
    barrier_all_grid,
    block_index,
    block_size,
    broadcast_grid,
    float32,
    function,
    grid_size,
    int64,
    kernel,
    load_relaxed,
    load_residual,
    local,
    open_box,
    open_lane,
    peer,
    reduce_scatter_grid,
    shared,
    signal,
    store_relaxed,
    store_residual,
    sync_block,
    thread_index,
    uint32,
    uint64,
)

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, ALL_TO_ALL = range(5)
ROOT = 0


@function
def collective(shape, lane, source, start, target, to, count):
    if shape.operation == ALL_REDUCE:
        all_reduce_grid(lane, shape.kind, source, start, target, to, count)
    elif shape.operation == ALL_GATHER:
        all_gather_grid(lane, shape.kind, source, start, target, to, count)
    elif shape.operation == REDUCE_SCATTER:
        reduce_scatter_grid(lane, shape.kind, source, start, target, to, count)
    elif shape.operation == BROADCAST:
        broadcast_grid(lane, shape.kind, source, start, target, to, count, ROOT)
    else:
        all_to_all_grid(lane, shape.kind, source, start, target, to, count)


@kernel
def collective_rounds(shape, comm, source, given, target, taken, count, pace):
    """Rounds take turns with INPUTS sets of source, `given` elements apart, and OUTPUTS of target, `taken` apart.

    shape: Constants `operation` and `kind`.
    """
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    start, to = uint32(0), uint32(0)
    stamp(pace, 0)
    for part in range(pace.parts):
        left = uint32(pace.rounds)
        while left > 0:
            collective(shape, lane, source, start, target, to, count)
            start, to, left = next_place(start, given, INPUTS), next_place(to, taken, OUTPUTS), uint32(left - 1)
        stamp(pace, part + 1)


@kernel
def all_to_all_v_rounds(shape, comm, source, starts, counts, target, tos, expected, most, pace):
    """starts and tos: int64 [INPUTS, pes] and [OUTPUTS, pes], of the sets that rounds take turns with."""
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    turn, out, pes = int64(0), int64(0), comm.shape.pes
    stamp(pace, 0)
    for part in range(pace.parts):
        for _ in range(pace.rounds):
            begun, ended = starts[turn * pes : (turn + 1) * pes], tos[out * pes : (out + 1) * pes]
            all_to_all_v_grid(lane, shape.kind, source, begun, counts, target, ended, expected, most)
            turn, out = following(turn, INPUTS), following(out, OUTPUTS)
        stamp(pace, part + 1)


@kernel
def barrier_rounds(shape, comm, words, wrong, pace):
    """Barriers of all PEs' grids, or of one block of each where `shape.block`; then some, not timed, that are checked.

    words: symmetric uint64 [blocks]; wrong: int64 [blocks], how often a block saw what was not yet there, or gone.
    """
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    stamp(pace, 0)
    for part in range(pace.parts):
        for _ in range(pace.rounds):
            barrier_all(shape, lane)
        stamp(pace, part + 1)
    for n in range(pace.rounds):
        if thread_index() == 0:
            tell_next(lane, words, n + block_index())
        barrier_all(shape, lane)
        for block in range(thread_index(), grid_size(), block_size()):
            if load_relaxed(words, block) != uint64(n + block):
                wrong[block_index()] += 1
        barrier_all(shape, lane)


@function
def barrier_all(shape, lane):
    if shape.block:
        barrier_all_block(lane)
    else:
        barrier_all_grid(lane)


@function
def tell_next(lane, words, value):
    """Stores at the next PE, for the barrier to deliver (thread)."""
    following_rank = following(int64(lane.rank), lane.shape.pes)
    if lane.shape.put:
        signal(words, block_index(), value, lane.pes[following_rank])
    else:
        store_relaxed(peer(words, lane.distances[following_rank]), block_index(), uint64(value))


@kernel
def all_reduce_norm_rounds(shape, comm, source, given, residual, weight, target, eps, pace):
    """Every block has the normalised vector at the end of a round, and writes the last one to its row of target.

    shape: Constants `kind`, `hidden`, `words`, of a vector in shared memory, and `blocks` of a cluster. residual: of
    the elements' type [1 + clusters, hidden], as it was, and as each cluster leaves it. target: uint32 [blocks, words].
    """
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    words, hidden, blocks, start = int64(shape.words), int64(shape.hidden), shape.blocks, uint32(0)
    x, own = shared(16, words, uint32), shared(16 + 4 * words, words, uint32)
    received, sums = shared(16 + 8 * words, 2 * words, uint32), shared(16 + 16 * words, max(8, block_size()), float32)
    box = open_box(received, shared(0, 2, uint64), local(1, int64))
    load_residual(shape.kind, residual, 0, hidden, blocks, own)
    sync_block()
    stamp(pace, 0)
    for part in range(pace.parts):
        left = uint32(pace.rounds)
        while left > 0:
            all_reduce_norm_grid(
                *(lane, shape.kind, source, start, own, weight, 0, x, hidden, eps, sums, box, blocks),
            )
            start, left = next_place(start, given, INPUTS), uint32(left - 1)
        stamp(pace, part + 1)
    store_residual(shape.kind, residual, (1 + block_index() // blocks) * hidden, hidden, blocks, own)
    for i in range(thread_index(), words, block_size()):
        target[block_index() * words + i] = x[i]
