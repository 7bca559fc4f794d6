"""One-sided communication by plain copies into the peers' shared memory. The contract is in ../README.md."""

from numba import types
from numba.core import errors
from numba.extending import intrinsic

from . import context as record
from .arrays import field_view, first_element
from .context import I64, field_reader, function
from .meetings import sync_block, sync_warp
from .memory import copy_bytes, load_acquire, peer, store_release
from .words import block_size, lane_index, thread_index, warp_size

__all__ = [
    "fence",
    "get",
    "get_block",
    "get_warp",
    "put",
    "put_block",
    "put_signal",
    "put_signal_block",
    "put_signal_warp",
    "put_warp",
    "quiet",
    "signal",
    "signal_fetch",
]

MOST_PES = 1 << 16  # far above: `_pes` says how many there are

_pes, _heap, _heap_bytes = field_reader(record.PES), field_reader(record.HEAP), field_reader(record.HEAP_BYTES)
_distances = field_view(record.DISTANCES, types.int64, MOST_PES)


@intrinsic
def _item_bytes(typingctx, target, source):
    """Bytes of an element; both arrays must have the same dtype."""
    if target.dtype != source.dtype:
        raise errors.TypingError(f"one-sided copies do not convert: {source.dtype} to {target.dtype}")
    size = target.dtype.bitwidth // 8
    return types.int64(target, source), lambda context, builder, sig, args: context.get_constant(types.int64, size)


@intrinsic
def _address(typingctx, array):
    def codegen(context, builder, sig, args):
        return builder.ptrtoint(first_element(context, builder, sig.args[0], args[0]), I64)

    return types.int64(array), codegen


@function
def _distance(array, pe):
    """From a symmetric array to PE `pe`'s copy of it."""
    if pe < 0 or pe >= _pes():
        raise IndexError("no such PE")
    behind = _address(array) - _heap()
    if _heap_bytes() > 0 and (behind < 0 or behind >= _heap_bytes()):
        raise IndexError("no symmetric array: other PEs have no copy of it")
    return _distances()[pe]


@function
def _copy_share(target, to, source, start, count, member, members):
    """One of `members` threads copies its share of the elements."""
    first, end = count * member // members, count * (member + 1) // members
    if end > first:
        copy_bytes(target, to + first, source, start + first, (end - first) * _item_bytes(target, source))


@function
def put(target, to, source, start, count, pe):
    _copy_share(peer(target, _distance(target, pe)), to, source, start, count, 0, 1)


@function
def put_warp(target, to, source, start, count, pe):
    _copy_share(peer(target, _distance(target, pe)), to, source, start, count, lane_index(), warp_size())
    sync_warp()


@function
def put_block(target, to, source, start, count, pe):
    _copy_share(peer(target, _distance(target, pe)), to, source, start, count, thread_index(), block_size())
    sync_block()


@function
def get(target, to, source, start, count, pe):
    _copy_share(target, to, peer(source, _distance(source, pe)), start, count, 0, 1)


@function
def get_warp(target, to, source, start, count, pe):
    _copy_share(target, to, peer(source, _distance(source, pe)), start, count, lane_index(), warp_size())
    sync_warp()


@function
def get_block(target, to, source, start, count, pe):
    _copy_share(target, to, peer(source, _distance(source, pe)), start, count, thread_index(), block_size())
    sync_block()


@function
def signal(signals, i, value, pe):
    """Copies here are done when they return, so a release store comes after every earlier put of this thread."""
    store_release(peer(signals, _distance(signals, pe)), i, value)


@function
def put_signal(target, to, source, start, count, signals, i, value, pe):
    put(target, to, source, start, count, pe)
    signal(signals, i, value, pe)


@function
def put_signal_warp(target, to, source, start, count, signals, i, value, pe):
    put_warp(target, to, source, start, count, pe)
    if lane_index() == 0:
        signal(signals, i, value, pe)


@function
def put_signal_block(target, to, source, start, count, signals, i, value, pe):
    put_block(target, to, source, start, count, pe)
    if thread_index() == 0:
        signal(signals, i, value, pe)


@function
def signal_fetch(signals, i):
    return load_acquire(signals, i)


@intrinsic
def _full_fence(typingctx):
    def codegen(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@function
def fence():
    _full_fence()


@function
def quiet():
    _full_fence()
