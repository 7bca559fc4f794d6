"""Philox4x32-10, a counter-based random number generator (Salmon et al., SC 2011): no state, the same on every PE."""

from .backend import float32, function, log, uint32, uint64

MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


@function
def philox(key0, key1, c0, c1, c2, c3):
    """The first of four random uint32 for this key (64 bits) and counter (128 bits) (thread)."""
    key0, key1, c0, c1, c2, c3 = uint32(key0), uint32(key1), uint32(c0), uint32(c1), uint32(c2), uint32(c3)
    for _ in range(ROUNDS):
        product0 = uint64(MULTIPLIER_0) * uint64(c0)
        product1 = uint64(MULTIPLIER_1) * uint64(c2)
        high0, low0 = uint32(product0 >> uint64(32)), uint32(product0)
        high1, low1 = uint32(product1 >> uint64(32)), uint32(product1)
        c0, c1, c2, c3 = uint32(high1 ^ c1 ^ key0), low1, uint32(high0 ^ c3 ^ key1), low0
        key0, key1 = uint32(key0 + uint32(WEYL_0)), uint32(key1 + uint32(WEYL_1))
    return c0


@function
def gumbel(bits):
    """A standard Gumbel variate from a random uint32: -log(-log(u)), u in (0, 1)."""
    # float32 holds each of these 23 bits and a half: of 24 the last few would round up to u = 1, noise without end.
    u = (float32(uint32(bits >> uint32(9))) + float32(0.5)) * float32(1.0 / 8388608.0)
    return -log(-log(u))
