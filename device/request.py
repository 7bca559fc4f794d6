"""What the decode kernel is asked for, and why it ends."""

from collections import namedtuple

from .backend import block_index, function, int32, int64, load_relaxed, thread_index
from .watch import has_expired
from .workers import sync_workers

Request = namedtuple("Request", "prompt prompt_count start max_new stops temperature top_p seed")
Request.__doc__ = """prompt: int64 token ids [prompt_count]. start: the first one's position. max_new: tokens to
generate. stops: int64 token ids that end the request. temperature, top_p: float32. seed: int64 [1], in memory:
what follows from a parameter a compiler would keep in registers for all tokens."""
STOP = 0  # control: the host wants the request to end
STOP_INTERVAL = 32  # prompt tokens, fed one by one, after which all ask whether it does
REASON_FLAG, FED_FLAG = 0, 1  # the block's flags: why the request ended, tokens of the prompt fed
RUNNING, LENGTH, STOP_TOKEN, STOPPED, EXPIRED, UNDEFINED = range(6)  # UNDEFINED: no logit was a number
NO_TOKEN = 0xFFFFFF  # token ids fit 24 bits, and this one is none


@function
def is_stop(request, token):
    i = 0
    while i < request.stops.size:
        if request.stops[i] == token:
            return True
        i += 1
    return False


@function
def wish_of_host(comm, control):
    """The wish to stop, which only PE 0's host can have, and the first thread of its first block tells (thread).

    A read of the host's memory takes a microsecond or two, and those of more threads come one after another.
    """
    speaks = comm.rank == 0 and block_index() == 0 and thread_index() == 0
    return int32(load_relaxed(control, STOP)) if speaks else int32(0)


@function
def has_ended(plan, request, block, generated, token, wish, limits):
    """Why the request ends after its newest token, or RUNNING; the same for every thread (block)."""
    if thread_index() == 0:
        reason = int64(RUNNING)
        if generated == request.max_new:
            reason = int64(LENGTH)
        if wish:
            reason = int64(STOPPED)
        if generated > 0 and is_stop(request, token):
            reason = int64(STOP_TOKEN)
        if generated > 0 and token == NO_TOKEN:
            reason = int64(UNDEFINED)
        if has_expired(limits):
            reason = int64(EXPIRED)
        block.flags[REASON_FLAG] = reason
    sync_workers(plan)
    reason = block.flags[REASON_FLAG]
    sync_workers(plan)
    return reason
