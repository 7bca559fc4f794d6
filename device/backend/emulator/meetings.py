"""Where threads meet: barriers, and what a warp does together, for the host's threads. The contract: ../README.md."""

from numba.types import float32, int64, uint64

from . import context as record
from .arrays import field_view
from .context import function, pause
from .memory import atomic_add, load_acquire, load_relaxed, store_relaxed, store_release
from .words import block_size, lane_index, warp_size

__all__ = ["sync_block", "sync_threads", "sync_warp", "warp_max", "warp_max_key", "warp_sum"]


@function
def meet(barrier, at, members, all_of_them=True):
    """The barrier's words from `at` on: how many threads have arrived, how often all have met. The backend's own.

    Raises where the others have left the kernel. all_of_them: whether those are all that the row's LEFT counts.
    """
    meetings = load_relaxed(barrier, at + 1)
    if atomic_add(barrier, at, 1) == members - 1:
        store_relaxed(barrier, at, 0)
        store_release(barrier, at + 1, meetings + 1)
    else:
        polls = 0
        while load_acquire(barrier, at + 1) == meetings:
            polls += 1
            pause(0, polls)
            left = load_relaxed(barrier, record.LEFT) if all_of_them else 0
            if left > 0 and left + load_relaxed(barrier, at) == members and load_acquire(barrier, at + 1) == meetings:
                raise RuntimeError("a barrier that not all of its threads reach: some have left the kernel")


_block_barrier = field_view(record.BLOCK_BARRIER, int64, record.LEFT + 1)  # sync_block's two words, then sync_threads'
_warp_barrier = field_view(record.WARP_BARRIER, int64, record.LEFT + 1)


@function
def sync_block():
    if block_size() > 1:
        meet(_block_barrier(), 0, block_size())


@function
def sync_threads(count):
    if count > 1:
        meet(_block_barrier(), 2, count, False)


@function
def sync_warp():
    if warp_size() > 1:
        meet(_warp_barrier(), 0, warp_size())


def _exchange(dtype):
    """The warp's scratch as an array, and a device function: every lane gives a value; from `row` on stand all of them.

    Two rows take turns with the warp's meetings: a row is written again only after the meeting that follows its reads.
    """
    row_items = 32 * 8 // (dtype.bitwidth // 8)  # rows of different dtypes start at the same two addresses
    scratch = field_view(record.SCRATCH, dtype, 2 * row_items)

    @function
    def exchange(value):
        row = row_items * (load_relaxed(_warp_barrier(), 1) & 1)
        scratch()[row + lane_index()] = value
        sync_warp()
        return row

    return scratch, exchange


_floats, _exchange_floats = _exchange(float32)
_keys, _exchange_keys = _exchange(uint64)


@function
def warp_sum(value):
    """The sum over the lanes, lane 0 first: the same bits on every lane."""
    total = float32(value)
    if warp_size() > 1:
        row, lanes = _exchange_floats(total), _floats()
        total = lanes[row]
        for lane in range(1, warp_size()):
            total += lanes[row + lane]
    return total


@function
def warp_max(value):
    largest = float32(value)
    if warp_size() > 1:
        row, lanes = _exchange_floats(largest), _floats()
        for lane in range(warp_size()):
            largest = max(largest, lanes[row + lane])
    return largest


@function
def warp_max_key(key):
    largest = uint64(key)
    if warp_size() > 1:
        row, lanes = _exchange_keys(largest), _keys()
        for lane in range(warp_size()):
            largest = max(largest, lanes[row + lane])
    return largest
