"""One PE's weight memory: where each matrix of the model lies in it, and how it is filled from a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .config import ModelConfig
from .product import Product, pack, product, unpack
from .shard import ModelShape, Shard, model_shape, tensors
from .weights import Checkpoint

__all__ = ["Layout", "ModelShape", "Product", "SmallTensors", "load", "model_shape", "pack", "product", "unpack"]

Sink = Callable[[int, np.ndarray], object]


class SmallTensors(NamedTuple):
    """What a PE holds beside the matrices, all float32.

    norms [2 * layers + 1, hidden]: each layer's input and post-attention norm, then the final norm; padding is zeros.
    bias [layers, qkv_rows]: zeros if the model has none. qk_norm [layers, 2, head_dim]: ones if the model has none.
    """

    norms: np.ndarray
    bias: np.ndarray
    qk_norm: np.ndarray


@dataclass(frozen=True)
class Layout:
    """The weight stream of one token, in memory order: each layer's qkv, o, gate_up and down, after all layers lm_head.

    Offsets and sizes are in bf16 elements; all are multiples of the smallest tile's, 512 bytes.
    """

    shape: ModelShape
    grid: int
    max_tile_columns: int

    @cached_property
    def qkv(self) -> Product:
        return self._product(self.shape.qkv_rows // 2, self.shape.hidden)

    @cached_property
    def o(self) -> Product:
        return self._product(self.shape.hidden // 2, self.shape.attention_columns)

    @cached_property
    def gate_up(self) -> Product:
        return self._product(self.shape.intermediate, self.shape.hidden)

    @cached_property
    def down(self) -> Product:
        return self._product(self.shape.hidden // 2, self.shape.intermediate)

    @cached_property
    def lm_head(self) -> Product:
        return self._product(self.shape.vocab // 2, self.shape.hidden)

    def _product(self, pairs: int, columns: int) -> Product:
        return product(pairs, columns, self.grid, self.max_tile_columns)

    @property
    def products(self) -> tuple[Product, ...]:
        """qkv, o, gate_up, down, lm_head."""
        return self.qkv, self.o, self.gate_up, self.down, self.lm_head

    @property
    def offsets(self) -> tuple[int, int, int, int]:
        """Where qkv, o, gate_up and down begin within a layer."""
        o = self.qkv.elements
        gate_up = o + self.o.elements
        return 0, o, gate_up, gate_up + self.gate_up.elements

    @property
    def layer_elements(self) -> int:
        return self.offsets[-1] + self.down.elements

    @property
    def lm_head_offset(self) -> int:
        return self.shape.layers * self.layer_elements

    @property
    def elements(self) -> int:
        """The whole weight memory."""
        return self.lm_head_offset + self.lm_head.elements

    @property
    def streamed_bytes(self) -> int:
        """What one token reads: all but the layers' tiles without a row."""
        layer = sum(product.tiles * product.tile_elements for product in self.products[:4])
        return 2 * (self.shape.layers * layer + self.lm_head.elements)


def load(
    config: ModelConfig,
    checkpoint: Checkpoint,
    shape: ModelShape,
    layout: Layout,
    rank: int,
    sink: Sink,
    embedding_sink: Sink,
    progress: bool = True,
) -> SmallTensors:
    """Read PE `rank`'s part of a checkpoint and hand it over, packed, a matrix at a time.

    All headers are checked before the first tensor is read, so a broken checkpoint fails at once and on every PE alike.

    Parameters
    ----------
    sink
        Called as ``sink(start, flat)`` for each matrix, in memory order: bf16 bits, uint16 [elements], that belong at
        element `start` of the weight memory, which has `layout.elements`.
    embedding_sink
        The same for the embedding table, a block of rows at a time: bf16 bits of [total_vocab, hidden], flat.
    progress
        Show a bar on rank 0's standard error.

    Raises
    ------
    CheckpointError
        A tensor is missing, truncated, of another shape than config.json says, or in an unsupported format.
    """
    for name, whole in tensors(config):
        checkpoint.check(name, whole)
    shard = Shard(config, checkpoint, shape, rank)
    total = 2 * layout.elements + 2 * shape.total_vocab * shape.hidden
    silent = not progress or rank != 0
    with tqdm(total=total, desc="loading weights", unit="B", unit_scale=True, disable=silent) as bar:

        def hand_over(to: Sink, start: int, flat: np.ndarray) -> None:
            to(start, flat)
            bar.update(flat.nbytes)

        for layer in range(shape.layers):
            for matrix, part, offset in zip(
                (shard.qkv, shard.o, shard.gate_up, shard.down), layout.products[:4], layout.offsets, strict=True
            ):
                hand_over(sink, layer * layout.layer_elements + offset, pack(matrix(layer), part))
        hand_over(sink, layout.lm_head_offset, pack(shard.lm_head(), layout.lm_head))
        row = 0
        for block in shard.embedding():
            hand_over(embedding_sink, row * shape.hidden, block.reshape(-1))
            row += len(block)
    return SmallTensors(shard.norms(), shard.bias(), shard.qk_norm())
