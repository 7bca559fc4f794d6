"""The next token, agreed on by all PEs on the device.

lm_head is vocabulary-parallel: each block has the logits of its rows, and all vote on their candidates (vote.py).

Greedy takes the highest logit. A temperature samples the softmax by the Gumbel-max trick (argmax of logit / temperature
plus Gumbel noise; Maddison et al., 2014) from a generator keyed by seed, position and token. top_p rejects: a token
drawn from the whole distribution is in the nucleus if the tokens of higher probability weigh less than top_p; if not,
it is drawn again among the tokens above the one rejected. What is accepted is distributed exactly as the nucleus.
"""

from .backend import as_bits, exp, float32, function, int64, load_relaxed, thread_index, uint32, uint64
from .philox import gumbel, philox
from .vote import LOWEST, block_max, block_max_key, block_sum, count_keys, count_masses, sort_key, token_of, vote
from .workers import sync_workers

MAX_ATTEMPTS = 256  # each draws above the last: never reached, but after a wait that ran out the votes mean nothing


@function
def draw(plan, ballot, logits, first_token, temperature, seed, position, attempt, floor, stop):
    """The block's candidate: its key, logit, and the block's highest logit (block). Logits <= floor take no part."""
    best, logit, top = uint64(stop), float32(LOWEST), float32(LOWEST)
    for i in range(thread_index(), plan.lm_head_rows, plan.block):
        value = logits[i]
        top = max(top, value)
        if value > floor:
            score = value
            if temperature > float32(0):
                bits = philox(seed, seed >> 32, position, first_token + i, attempt, 0)
                score = value / temperature + gumbel(bits)
            key = sort_key(score, first_token + i, stop)
            if key > best:
                best, logit = key, value
    winner = block_max_key(plan, ballot, best)
    top = block_max(plan, ballot, top)
    sync_workers(plan)
    if best == winner:
        ballot.numbers[plan.warps] = logit
    sync_workers(plan)
    return winner, ballot.numbers[plan.warps], top


@function
def masses(plan, ballot, logits, temperature, logit, top):
    """The block's probability mass above `logit`, and in all, relative to the highest logit `top` (block)."""
    above, total = float32(0), float32(0)
    for i in range(thread_index(), plan.lm_head_rows, plan.block):
        value = logits[i]
        weight = exp((value - top) / temperature) if value > float32(LOWEST) else float32(0)
        total += weight
        if value > logit:
            above += weight
    return block_sum(plan, ballot, above), block_sum(plan, ballot, total)


@function
def choose(plan, comm, ballot, logits, first_token, request, position, stop, limits):
    """The next token, the same on every block of every PE (block); returns it and the wish to stop.

    logits: float32 [lm_head_rows] in shared memory, LOWEST where there is no token. first_token: id of the first.
    stop: 1 if this thread speaks for the host and it wants to stop.
    """
    seed = load_relaxed(request.seed, 0) if request.temperature > float32(0) else int64(0)
    floor, attempt, stop = float32(LOWEST), 0, block_max_key(plan, ballot, uint64(stop))
    while True:
        key, logit, top = draw(
            plan, ballot, logits, first_token, request.temperature, seed, position, attempt, floor, stop
        )
        words = uint32(key >> uint64(32)), uint32(key & uint64(0xFFFFFFFF))
        vote(plan, comm, ballot, words[0], words[1], as_bits(logit), as_bits(top))
        key, logit, top, wish = count_keys(plan, ballot, limits)
        if request.temperature <= float32(0) or request.top_p >= float32(1):
            break
        above, total = masses(plan, ballot, logits, request.temperature, logit, top)
        vote(plan, comm, ballot, as_bits(above), as_bits(total), uint32(0), uint32(0))
        above, total = count_masses(plan, ballot, limits)
        if above < request.top_p * total or attempt == MAX_ATTEMPTS:
            break
        floor, attempt = logit, attempt + 1
    return token_of(key), wish
