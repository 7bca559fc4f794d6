"""A model in a PE's device memory: the packed weights, the embedding table, and what is small."""

import numpy as np

from .config import ModelConfig, rope_table
from .errors import ShmemtpError
from .model import load
from .plan import PAGE, Plan
from .weights import Checkpoint

__all__ = ["ResidentModel"]

DUMMY_SCALE = 0.04  # uniform in +-0.04: a standard deviation of 0.023, as trained models have


class ResidentModel:
    """One PE's share of a model, ready for the decode kernel.

    weights: uint16 bf16, the stream of `plan.layout`. embedding: uint32 bf16 pairs [total_vocab, hidden / 2]. norms,
    biases, head_norms, rope: float32 (see device/decode.py). keys, values: uint16 bf16, the KV cache
    (device/cache.py).
    """

    def __init__(self, device, config: ModelConfig, plan: Plan, rank: int, dummy: bool):
        self.config, self.plan, self._device = config, plan, device
        shape = plan.shape
        cache = shape.layers * shape.kv_heads * plan.cache_positions // PAGE * plan.memory.page_elements
        embedding = shape.total_vocab * shape.hidden // 2
        self._check_memory(2 * plan.layout.elements + 4 * embedding + 4 * cache)
        plan.memory.check()  # before the weights, which take long
        self.weights = device.array(plan.layout.elements, np.uint16)
        self.embedding = device.array(embedding, np.uint32)
        self.keys, self.values = device.array(cache, np.uint16), device.array(cache, np.uint16)
        small = self._fill_dummy(rank) if dummy else self._load(rank)
        self.norms, self.biases, self.head_norms = (self._resident(array) for array in small)
        self.rope = self._resident(rope_table(config, plan.max_context))

    def _check_memory(self, needed):
        free, _ = self._device.memory()
        needed += 1 << 28  # channels, slots, the kernel's own
        if needed > free:
            raise ShmemtpError(
                f"not enough memory on {self._device.name}: this model needs {needed / 2**30:.1f} GiB on each of "
                f"{self.plan.shape.tp} PEs with a context of {self.plan.max_context}; {free / 2**30:.1f} GiB are free"
            )

    def _resident(self, values):
        array = self._device.array(values.size, np.float32)
        array.fill(values.reshape(-1))
        return array

    def _load(self, rank):
        """Reads this PE's slices of the checkpoint."""
        from .device.backend import view

        halves = view(self.embedding.address, 2 * self.embedding.shape[0], np.uint16)
        checkpoint = Checkpoint(self.config.folder)
        return load(
            self.config,
            checkpoint,
            self.plan.shape,
            self.plan.layout,
            rank,
            lambda start, flat: self.weights.fill(flat, start),
            lambda start, flat: halves.fill(flat, start),
        )

    def _fill_dummy(self, rank):
        from .device.backend import view
        from .device.dummy import fill_random

        words = view(self.weights.address, self.plan.layout.elements // 2, np.uint32)
        shape = self.plan.shape
        for array, seed in ((words, rank + 1), (self.embedding, 0)):
            args = (array, seed, np.float32(DUMMY_SCALE))
            block = self.plan.block
            compiled = self._device.compile(fill_random, args, block=block)
            self._device.launch(compiled, self.plan.grid, block, args, warp=self.plan.warp).wait()
        norms = np.ones((2 * shape.layers + 1, shape.hidden), np.float32)
        norms[:, shape.true_hidden :] = 0
        biases = np.zeros((shape.layers, shape.qkv_rows), np.float32)
        return norms, biases, np.ones((shape.layers, 2, shape.head_dim), np.float32)
