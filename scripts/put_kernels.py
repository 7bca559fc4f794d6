"""The kernels of bench_put: transfers that one PE makes, and messages that go back and forth between two."""

from collections import namedtuple

from pace import INPUTS, OUTPUTS, Pace, following, stamp  # noqa: F401 (Pace for callers)

from shmemtp.device import (
    Limits,
    block_index,
    block_size,
    function,
    get,
    get_block,
    get_warp,
    grid_size,
    int64,
    kernel,
    load_packet,
    local,
    open_lane,
    peer,
    put,
    put_block,
    put_signal,
    put_signal_block,
    put_signal_warp,
    put_warp,
    quiet,
    signal,
    signal_wait,
    signal_wait_block,
    signal_wait_warp,
    store_packet,
    store_release,
    sync_block,
    sync_grid,
    thread_index,
    uint32,
    uint64,
)

PUT, GET, PUT_SIGNAL, SIGNAL = range(4)
THREAD, WARP, BLOCK, GRID = range(4)
BATCH, BATCH_WORDS = 4, 16  # 16-byte loads of a thread that are in flight together, and their words

Wire = namedtuple("Wire", "here there signals done other distance words stride")
Wire.__doc__ = """Both ends of a transfer. here: this PE's memory, INPUTS sets of what it sends, then OUTPUTS of what it
gets. there: symmetric, INPUTS sets; PE `other`'s copy is meant, whose heap is `distance` bytes away. Both uint32: a
message is `words` of them, a multiple of 4, and sets stand `stride` apart. signals: symmetric uint64, done: uint32, one
for each block."""


@function
def transfer_raw(shape, wire, to, start, epoch):
    """One message by loads and stores of the peer's memory (grid)."""
    if shape.operation == GET:
        copy(wire.here, to, peer(wire.there, wire.distance), start, wire.words)
    elif shape.operation != SIGNAL:
        copy(peer(wire.there, wire.distance), to, wire.here, start, wire.words)
    if shape.operation == PUT_SIGNAL or shape.operation == SIGNAL:
        sync_block()
        if thread_index() == 0:
            store_release(peer(wire.signals, wire.distance), block_index(), uint64(epoch))


@function
def copy(target, to, source, start, words):
    """By all threads of the launch, 16 bytes at a time, past the first-level cache (grid)."""
    data = local(BATCH_WORDS, uint32)
    vectors, step = words // 4, grid_size() * block_size()
    for first in range(block_index() * block_size() + thread_index(), vectors, BATCH * step):
        for b in range(BATCH):
            if first + b * step < vectors:
                at = start + 4 * (first + b * step)
                data[4 * b], data[4 * b + 1], data[4 * b + 2], data[4 * b + 3] = load_packet(source, at)
        for b in range(BATCH):
            if first + b * step < vectors:
                at = to + 4 * (first + b * step)
                store_packet(target, at, data[4 * b], data[4 * b + 1], data[4 * b + 2], data[4 * b + 3])


@function
def transfer_nvshmem(shape, scope, wire, to, start, epoch):
    """One message by NVSHMEM's functions for `scope`; each block of a grid moves a part (grid)."""
    share = 4 * ((wire.words // 4 + grid_size() - 1) // grid_size())
    first = min(wire.words, block_index() * share)
    words = min(wire.words - first, share)
    if shape.operation == PUT:
        put_by(scope, wire, to + first, start + first, words)
    elif shape.operation == GET:
        get_by(scope, wire, to + first, start + first, words)
    elif shape.operation == PUT_SIGNAL:
        put_signal_by(scope, wire, to + first, start + first, words, epoch)
    elif thread_index() == 0:
        signal(wire.signals, block_index(), epoch, wire.other)


@function
def put_by(scope, wire, to, start, words):
    if scope == THREAD:
        put(wire.there, to, wire.here, start, words, wire.other)
    elif scope == WARP:
        put_warp(wire.there, to, wire.here, start, words, wire.other)
    else:
        put_block(wire.there, to, wire.here, start, words, wire.other)


@function
def get_by(scope, wire, to, start, words):
    if scope == THREAD:
        get(wire.here, to, wire.there, start, words, wire.other)
    elif scope == WARP:
        get_warp(wire.here, to, wire.there, start, words, wire.other)
    else:
        get_block(wire.here, to, wire.there, start, words, wire.other)


@function
def put_signal_by(scope, wire, to, start, words, epoch):
    at = block_index()
    if scope == THREAD:
        put_signal(wire.there, to, wire.here, start, words, wire.signals, at, epoch, wire.other)
    elif scope == WARP:
        put_signal_warp(wire.there, to, wire.here, start, words, wire.signals, at, epoch, wire.other)
    else:
        put_signal_block(wire.there, to, wire.here, start, words, wire.signals, at, epoch, wire.other)


@function
def transfer(shape, scope, wire, to, start, epoch):
    if shape.raw:
        transfer_raw(shape, wire, to, start, epoch)
    else:
        transfer_nvshmem(shape, scope, wire, to, start, epoch)


@function
def complete(shape, wire, epoch):
    """Returns when the block's transfers have arrived (block)."""
    sync_block()
    if thread_index() == 0:
        if shape.raw:
            store_release(wire.done, block_index(), uint32(epoch))  # no later than what the block stored before
        elif shape.operation != GET:
            quiet()
    sync_block()


@kernel
def transfer_rounds(shape, scope, wire, each, pace, comm):
    """Messages from or to one PE, while the other does nothing.

    shape: Constants `operation` and `raw`. each: whether every message is completed before the next begins (latency),
    or those of a part together (bandwidth): then the blocks meet after each part, or the fast ones would run ahead of
    the others, and a part's end would tell nothing.
    """
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    turn, out, epoch = int64(0), int64(0), int64(0)
    stamp(pace, 0)
    for part in range(pace.parts):
        for _ in range(pace.rounds):
            epoch += 1
            to = (INPUTS + out) * wire.stride if shape.operation == GET else out * wire.stride
            transfer(shape, scope, wire, to, turn * wire.stride, epoch)
            if each:
                complete(shape, wire, epoch)
            turn, out = following(turn, INPUTS), following(out, OUTPUTS)
        complete(shape, wire, epoch)
        if not each:
            sync_grid(lane)
        stamp(pace, part + 1)


@function
def await_message(scope, wire, epoch, limits):
    if scope == THREAD:
        signal_wait(wire.signals, 0, epoch, limits)
    elif scope == WARP:
        signal_wait_warp(wire.signals, 0, epoch, limits)
    else:
        signal_wait_block(wire.signals, 0, epoch, limits)


@kernel
def ping_pong_rounds(shape, scope, wire, leads, pace, watch, rank):
    """A round is a message there and one back (block). leads: whether this PE sends first, 1 or 0."""
    limits = Limits(watch, rank)
    turn, out, epoch = int64(0), int64(0), int64(0)
    stamp(pace, 0)
    for part in range(pace.parts):
        for _ in range(pace.rounds):
            epoch += 1
            if leads:
                transfer(shape, scope, wire, out * wire.stride, turn * wire.stride, epoch)
            await_message(scope, wire, epoch, limits)
            if not leads:
                transfer(shape, scope, wire, out * wire.stride, turn * wire.stride, epoch)
            turn, out = following(turn, INPUTS), following(out, OUTPUTS)
        stamp(pace, part + 1)
