"""Random weights where there is no checkpoint: what `--load-format dummy` decodes."""

from .backend import block_index, block_size, float32, function, grid_size, kernel, thread_index, uint32
from .bfloat16 import pack
from .philox import philox


@function
def uniform(bits, scale):
    """A float32 in (-scale, scale) from a random uint32."""
    return (float32(uint32(bits >> uint32(8))) * float32(2.0 / 16777216.0) - float32(1)) * scale


@kernel
def fill_random(words, seed, scale):
    """Every bf16 value of `words` (uint32, two each) uniform in (-scale, scale), from its place and `seed`."""
    for i in range(block_index() * block_size() + thread_index(), words.size, grid_size() * block_size()):
        first, second = philox(seed, 0, i, i >> 32, 0, 0), philox(seed, 1, i, i >> 32, 0, 0)
        words[i] = pack(uniform(first, scale), uniform(second, scale))
