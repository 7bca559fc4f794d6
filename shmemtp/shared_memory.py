"""How a block's shared memory is divided: what passes over a model need, and the weight stream's ring in the rest."""

from dataclasses import dataclass
from functools import cached_property

from .errors import ShmemtpError
from .model import Layout
from .product import TILE_ROWS, round_up

__all__ = ["SharedMemory"]

MOST_DEPTH = 8  # stages of a warp's ring: more is far beyond what the memory's latency needs
LINE = 128  # bytes: regions start on one


@dataclass(frozen=True)
class SharedMemory:
    """Of a block of so many warps in passes of `tokens` tokens, at most `limit` bytes.

    part_positions: of a part of the context, whose scores attention has here.
    """

    layout: Layout
    warps: int
    part_positions: int
    tokens: int
    limit: int

    @property
    def low_terms(self) -> int:
        """Where the low bf16 terms of a hidden state stand behind the high ones, in elements.

        Two words more than they must: high and low terms, which are read together, lie in other banks.
        """
        layout = self.layout
        return max(product.columns for product in (layout.qkv, layout.gate_up, layout.lm_head)) + 4

    @property
    def x_stride(self) -> int:
        """Elements of a token's input of a product, the largest."""
        return max(2 * self.low_terms, *(product.columns for product in self.layout.products))

    @cached_property
    def _scratch(self) -> dict[str, int]:
        """Bytes of attention's regions (device/attention.py), each a multiple of LINE."""
        shape = self.layout.shape
        rows = shape.group * self.tokens
        sizes = {
            "vectors": 4 * rows * shape.head_dim,
            "queries": 2 * rows * shape.head_dim,
            "scores": 4 * rows * self.part_positions,
            "weights": 2 * rows * self.part_positions,
            "totals": 8 * rows,
        }
        return {name: round_up(nbytes, LINE) for name, nbytes in sizes.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each region beside the ring. Attention's share x's, which holds nothing between two products.

        The first three do not depend on the tokens of a pass: they stay where they are from pass to pass.
        """
        lm_head, tokens = self.layout.lm_head, self.tokens
        tiles = max(lm_head.splits, *(product.tiles_per_block for product in self.layout.products[:4]))
        return {
            "flags": 16,
            "keys": 8 * self.warps,
            "numbers": 4 * (self.warps + 4),
            "x": max(2 * tokens * self.x_stride, sum(self._scratch.values())),
            "partial": 4 * TILE_ROWS * tiles * tokens,
            "logits": 8 * lm_head.pairs_per_block if tokens == 1 else 0,
            "residual": 8 * self.layout.o.pairs_per_block * tokens,
            "sums": 4 * self.warps * tokens,
            "rotation": 4 * self.layout.shape.head_dim * tokens,
        }

    @property
    def lm_head_turn(self) -> int:
        """Tiles of lm_head multiplied before their sums become logits: whole rows, as `partial` has room for."""
        row = self.layout.lm_head.splits
        return self.sizes["partial"] // (4 * TILE_ROWS * row) * row

    @property
    def stage_elements(self) -> int:
        return max(product.tile_elements for product in self.layout.products)

    @property
    def _small_bytes(self) -> int:
        return sum(round_up(nbytes, LINE) for nbytes in self.sizes.values()) + LINE

    @property
    def _round_bytes(self) -> int:
        """What a stage for each warp takes."""
        return self.warps * (2 * self.stage_elements + 8)

    @property
    def _rounds(self) -> int:
        return min((self.limit - self._small_bytes) // self._round_bytes, MOST_DEPTH)

    @property
    def fits(self) -> bool:
        return self._rounds > 0

    @property
    def depth(self) -> int:
        """Stages of the ring for each warp: what there is room for."""
        if not self.fits:
            raise ShmemtpError(
                f"this model needs {self._small_bytes + self._round_bytes} bytes of shared memory a block, "
                f"and the device has {self.limit}"
            )
        return self._rounds

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each region begins, in bytes; `end` is where the last one ends."""
        stages = self.warps * self.depth
        regions = {**self.sizes, "ring": 2 * stages * self.stage_elements, "landed": 8 * stages}
        offsets, at = {}, 0
        for name, nbytes in regions.items():
            offsets[name] = at
            at += round_up(nbytes, LINE)
        inner = offsets["x"]
        for name, nbytes in self._scratch.items():
            offsets[name] = inner
            inner += nbytes
        return {**offsets, "end": at}
