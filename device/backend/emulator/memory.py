"""Loads, stores, packets, atomics and mbarriers, for the host's threads. The contract is in ../README.md.

Every ordered access is the LLVM atomic of that order; x86 and Arm hosts keep what they promise between processes too.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .arrays import check_range, element, first_element
from .context import I64, function, pause

__all__ = [
    "atomic_add",
    "atomic_cas",
    "await_copies",
    "barrier_arrive",
    "barrier_end",
    "barrier_expect",
    "barrier_fence",
    "barrier_init",
    "barrier_test",
    "barrier_wait",
    "bulk_fence",
    "bulk_load",
    "commit_copies",
    "copy_async",
    "load_acquire",
    "load_relaxed",
    "peer",
    "prefetch",
    "store_relaxed",
    "store_release",
]


def _bytes(kind):
    return kind.dtype.bitwidth // 8


def _load(order):
    @intrinsic
    def load(typingctx, array, i):
        def codegen(context, builder, sig, args):
            place = element(context, builder, sig.args[0], *args)
            return builder.load_atomic(place, order, _bytes(sig.args[0]))

        return array.dtype(array, types.int64), codegen

    return load


def _store(order):
    @intrinsic
    def store(typingctx, array, i, value):
        def codegen(context, builder, sig, args):
            place = element(context, builder, sig.args[0], *args[:2])
            builder.store_atomic(args[2], place, order, _bytes(sig.args[0]))
            return context.get_dummy_value()

        return types.void(array, types.int64, array.dtype), codegen

    return store


load_acquire, load_relaxed = _load("acquire"), _load("monotonic")
store_release, store_relaxed = _store("release"), _store("monotonic")


@intrinsic
def atomic_add(typingctx, array, i, value):
    """Adds and returns the old value; acquire and release."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", element(context, builder, sig.args[0], *args[:2]), args[2], "acq_rel")

    return array.dtype(array, types.int64, array.dtype), codegen


@intrinsic
def atomic_cas(typingctx, array, i, expected, desired):
    """Stores `desired` where `expected` stands and returns the old value; acquire and release."""

    def codegen(context, builder, sig, args):
        place = element(context, builder, sig.args[0], *args[:2])
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "acq_rel", "acquire"), 0)

    return array.dtype(array, types.int64, array.dtype, array.dtype), codegen


@intrinsic
def peer(typingctx, array, distance):
    """The same array on the PE whose heap lies `distance` bytes away."""

    def codegen(context, builder, sig, args):
        struct = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0])
        here = struct.data
        struct.data = builder.inttoptr(builder.add(builder.ptrtoint(here, I64), args[1]), here.type)
        struct.meminfo = cgutils.get_null_value(struct.meminfo.type)  # a view that owns nothing
        struct.parent = cgutils.get_null_value(struct.parent.type)
        return struct._getvalue()

    return types.Array(array.dtype, array.ndim, "C")(array, types.int64), codegen


# --- the copy engine ---


@intrinsic
def copy_bytes(typingctx, target, to, source, start, nbytes):
    """memcpy from element `start` to element `to`; an IndexError where that is beyond an array."""

    def codegen(context, builder, sig, args):
        check_range(context, builder, sig.args[0], *args[:2], args[4])
        check_range(context, builder, sig.args[2], *args[2:5])
        there = builder.gep(first_element(context, builder, sig.args[0], args[0]), [args[1]])
        here = builder.gep(first_element(context, builder, sig.args[2], args[2]), [args[3]])
        cgutils.raw_memcpy(builder, there, here, args[4], 1)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), codegen


# An mbarrier in one word: bit 0 is the phase's parity, then its missing arrivals, those of each phase, and the bytes it
# waits for (below zero while bytes landed before anybody expected them).
COUNT_BITS = 7
MOST_COUNT = (1 << COUNT_BITS) - 1


@function
def advance(array, i, nbytes, arrivals):
    """Moves the phase on by arrivals and by bytes that are expected (above 0) or have landed (below). The backend's."""
    while True:
        old = types.int64(load_relaxed(array, i))
        word = old + (nbytes << (2 * COUNT_BITS + 1)) - 2 * arrivals
        count = (word >> (COUNT_BITS + 1)) & MOST_COUNT
        if word >> 1 == count << COUNT_BITS:  # no arrival is missing, and no byte
            word = _phase(count, ~word & 1)
        if types.int64(atomic_cas(array, i, old, word)) == old:
            return


@function
def _phase(count, parity):
    """The word of a phase that begins."""
    return types.int64(count << (COUNT_BITS + 1) | count << 1 | parity)


@function
def barrier_init(array, i, count=1):
    """An mbarrier in phase 0, for so many arrivals a phase, MOST_COUNT at most."""
    store_relaxed(array, i, _phase(types.int64(count), 0))


@function
def barrier_end(array, i):
    """Its word is memory like any other."""


@function
def barrier_expect(array, i, nbytes):
    """Arrives, and adds bytes to wait for."""
    advance(array, i, types.int64(nbytes), 1)


@function
def barrier_arrive(array, i):
    """Arrives; release."""
    advance(array, i, 0, 1)


@function
def barrier_test(array, i, parity):
    """True once the phase of this parity completed; acquire."""
    return types.int64(load_acquire(array, i)) & 1 != parity


@function
def barrier_wait(array, i, parity):
    """Returns once the phase of this parity completed; acquire."""
    polls = 0
    while not barrier_test(array, i, parity):
        polls += 1
        pause(0, polls)


@function
def barrier_fence():
    """The copies here are ordinary ones: nothing to do."""


@function
def bulk_fence():
    """Likewise."""


@intrinsic
def _check(typingctx, array, i, nbytes):
    def codegen(context, builder, sig, args):
        check_range(context, builder, sig.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@function
def bulk_load(target, to, source, start, nbytes, array, i, once=True):
    """Global element `start` -> shared element `to`; the copy has landed on return, the mbarrier says so."""
    copy_bytes(target, to, source, start, nbytes)
    advance(array, i, -types.int64(nbytes), 0)


@function
def copy_async(target, to, source, start):
    """16 bytes, which have landed on return (thread)."""
    copy_bytes(target, to, source, start, 16)


@function
def commit_copies():
    """What `copy_async` copies needs no waiting for (thread)."""


@function
def await_copies(groups):
    """Likewise."""


@function
def prefetch(array, i, nbytes):
    """The host's caches need no hint; on a GPU one beyond the array may be an error."""
    _check(array, i, nbytes)
