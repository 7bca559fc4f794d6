"""Epoch-tagged packets: data that says by itself when it has arrived.

A packet is 16 bytes, {data, epoch, data, epoch}, in one relaxed store; each 8-byte half carries its own
epoch, so only 8-byte stores need arrive whole. The receiver polls its own memory until both epochs match: no fence, no
flag, no barrier, one hop. Whoever waits for many packets waits first for one of them (`wait_for_packet`), or for what
comes when they do: thousands of threads that poll take the cache's bandwidth from the weights, and from the packets. A
channel has two slot sets, chosen by the epoch's parity, and needs no reset as long as a sender stores epoch k + 1 only
after it has read everyone's epoch k. A packet orders nothing but itself.
"""

from .backend import DEVICE, SYSTEM, all_in_line, function, int64, load_packet, local, sync_warp, uint32
from .watch import LEAVE, keep_waiting

BATCH = 4  # packets of one thread whose loads are in flight together
BATCH_WORDS = 2 * BATCH
NONE = uint32(0xFFFFFFFF)  # no packet has this number


@function
def wait_for_packet(words, at, tag, limits, operation):
    """Waits for one of this PE's blocks' packets at word `at`: one load a poll for the whole warp (warp)."""
    sync_warp()  # lanes that are still about to store what others wait for hardly run while these poll
    polls = began = 0
    while True:
        a, tag_a, b, tag_b = load_packet(words, at, DEVICE)
        if tag_a == tag and tag_b == tag:
            return
        polls += 1
        began = keep_waiting(limits, polls, began, operation, limits.pe, at, tag, tag_a)
        if began == LEAVE:
            return


@function
def receive(words, at, tag, limits, operation, peer):
    """Waits for the packet at word `at`; returns its two data words (thread)."""
    polls = began = 0
    while True:
        a, tag_a, b, tag_b = load_packet(words, at)
        if tag_a == tag and tag_b == tag:
            return a, b
        polls += 1
        began = keep_waiting(limits, polls, began, operation, peer, at, tag, tag_a)
        if began == LEAVE:
            return a, b


@function
def receive_batch(words, at, first, stride, count, tag, data, limits, operation, per_peer, batch=BATCH, together=False):
    """Waits for packets first, first + stride, ... (`batch` of them, those below `count`) of a channel (thread).

    The channel begins at word `at`. Their data words go to `data`, uint32 [batch, 2]. All loads are in flight together:
    polling packet after packet would pay the memory's latency for each. per_peer: packets from each PE, by which the
    sender of a missing one is known; 0 where all are this PE's own. batch, together: constants; together: all of a
    line's threads call together, and return together.
    """
    polls = began = 0
    base = int64(at + 4 * first)
    scope = DEVICE if per_peer == 0 else SYSTEM
    # packets are counted in 32 bits; what is added to `base` is constant
    first, count = uint32(first), uint32(count)
    while True:
        missing, seen = NONE, uint32(0)
        for b in range(batch):
            packet = uint32(first + b * stride)
            if packet < count:
                data_a, tag_a, data_b, tag_b = load_packet(words, base + 4 * b * stride, scope)
                data[2 * b] = data_a
                data[2 * b + 1] = data_b
                if tag_a != tag or tag_b != tag:
                    missing, seen = packet, tag_a
        done = missing == NONE or began == LEAVE
        if all_in_line(done) if together else done:
            return
        if not done:
            polls += 1
            peer = int64(missing) // per_peer if per_peer > 0 else int64(limits.pe)
            began = keep_waiting(limits, polls, began, operation, peer, int64(missing), tag, seen)


@function
def receive_from_all(plan, words, at, stride, tag, data, limits, operation, but=-1):
    """Waits for one packet of every PE: PE p's stands at word `at` + p * `stride` (thread).

    Their data words go to `data` (uint32, 2 * plan.pes). All loads are in flight together. but: a PE that sends
    none, and whose words in `data` stay.
    """
    polls = began = 0
    tags = local(plan.pes_twice, uint32)
    while True:
        wrong = uint32(0)  # bits of all tags at once: the shortest way from the last load to the return
        for p in range(plan.pes):
            if p != but:
                data[2 * p], tags[2 * p], data[2 * p + 1], tags[2 * p + 1] = load_packet(words, at + p * stride)
                wrong |= (tags[2 * p] ^ tag) | (tags[2 * p + 1] ^ tag)
        if wrong == 0:
            return
        missing, seen = 0, uint32(0)
        for p in range(plan.pes):
            if p != but and (tags[2 * p] != tag or tags[2 * p + 1] != tag):
                missing, seen = p, tags[2 * p]
        polls += 1
        began = keep_waiting(limits, polls, began, operation, missing, at, tag, seen)
        if began == LEAVE:
            return
