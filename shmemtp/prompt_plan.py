"""How a prompt's passes run on a device: how many tokens each takes, and where everything lies in shared memory."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .product import GROUP, TILE_ROWS, Product, ceil_div, round_up
from .shared_memory import IN_FLIGHT, LINE, MBARRIER, place

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["PromptPlan", "most_tokens"]

LEAST_TOKENS = 16  # of a pass, and what the others are multiples of
MOST_VECTORS, COLUMNS = 32, 64  # device/backend/README.md: `multiply_tiles` takes so many or LEAST_TOKENS, a multiple
MOST_ARRIVALS = 127  # the same: of an mbarrier's phase
CHUNKS, ROW_PADDING = 2, 8  # device/prompt/stream.py
STAGE_ROWS = GROUP * TILE_ROWS
LEAST_STAGES, MOST_STAGES = 3, 12
MOST_PARTS = 8  # of a product's columns, each another warp's
ROWS = 8  # device/prompt/attention.py: of a warp
LEAST_PLACES, MOST_PLACES = 2, 6  # tiles of the context that a block holds: one is at work


@dataclass(frozen=True)
class PromptPlan:
    """Passes of at most `tokens` tokens of a prompt, in the launches of `plan`; the same on every PE of the team."""

    plan: "Plan"
    tokens: int

    @property
    def fits(self) -> bool:
        return self.tokens >= LEAST_TOKENS and self.stages >= LEAST_STAGES and self.plan.warps <= MOST_ARRIVALS

    @property
    def _products(self) -> tuple[Product, ...]:
        return self.plan.layout.products[:4]

    @property
    def _columns(self) -> int:
        """Of the widest tiles."""
        return max(product.tile_columns for product in self._products)

    @property
    def stage_elements(self) -> int:
        return STAGE_ROWS * self._columns

    @property
    def chunk_elements(self) -> int:
        return self._chunk_size(self._columns)

    def _chunk_size(self, columns: int) -> int:
        """Elements of all tokens' inputs of a split: two tokens share a row."""
        return self.tokens // 2 * (2 * columns + ROW_PADDING)

    @property
    def vectors(self) -> int:
        """Tokens that a warp multiplies at once."""
        return MOST_VECTORS if self.tokens % MOST_VECTORS == 0 else LEAST_TOKENS

    def sum_stride(self, product: Product) -> int:
        """Floats from a token's sums to the next one's: whole stages, and eight to have them in other banks."""
        return round_up(2 * product.pairs_per_block, STAGE_ROWS) + 8

    def parts(self, product: Product) -> int:
        """In how many parts of its columns a stage is multiplied: so many that most warps have one in each split."""
        stages = ceil_div(2 * product.pairs_per_block, STAGE_ROWS)
        shares = stages * (self.tokens // self.vectors)
        parts = 1
        while (
            2 * parts * shares <= self.plan.warps
            and 2 * parts <= MOST_PARTS
            and product.tile_columns % (2 * parts * COLUMNS) == 0
        ):
            parts *= 2
        return parts

    @property
    def _partial_bytes(self) -> int:
        return 4 * self.tokens * max(self.parts(product) * self.sum_stride(product) for product in self._products)

    @property
    def _chunk_bytes(self) -> int:
        return 2 * CHUNKS * self.chunk_elements

    @property
    def band(self) -> int:
        """Rows of a unit of attention (device/prompt/attention.py): a full pass's make bands of the same size."""
        rows = self.plan.shape.group * self.tokens
        bands = max(1, ceil_div(rows, ROWS * self.plan.warps))
        return max(ROWS, round_up(ceil_div(rows, bands), ROWS))

    @property
    def sum_row(self) -> int:
        """Floats of what a unit finds of a row: its sums, its highest score, the sum of its weights, and padding."""
        return self.plan.shape.head_dim + 4

    @property
    def sums(self) -> int:
        """Floats of what all units find."""
        bands = ceil_div(self.plan.shape.group * self.tokens, self.band)
        return max(self.plan.grid, self.plan.shape.kv_heads * bands) * self.band * self.sum_row

    @property
    def _context_tile_bytes(self) -> int:
        """Keys and values of two granules."""
        return 2 * 4 * self.plan.granule_elements

    @property
    def places(self) -> int:
        """Tiles of the context that a block holds at a time, in the place of the chunks."""
        room = self._chunk_bytes // self._context_tile_bytes
        return max(LEAST_PLACES, min(MOST_PLACES, room))

    @cached_property
    def _small_sizes(self) -> dict[str, int]:
        """Bytes of each region beside the stages. The first four are where the other passes have them."""
        return {
            **{name: self.plan.memory.sizes[name] for name in ("flags", "keys", "numbers", "epoch")},
            "partial": self._partial_bytes,
            "residual": 8 * self.plan.layout.o.pairs_per_block * self.tokens,
            "factors": 4 * self.tokens,
            "counts": 4 * self.band,
            "context_landed": MBARRIER * self.places,
            "chunks": max(self._chunk_bytes, self.places * self._context_tile_bytes),
            **{name: MBARRIER * CHUNKS for name in ("chunk_landed", "chunk_free")},
            **{name: MBARRIER * MOST_STAGES for name in ("landed", "free")},
            "opened": MBARRIER,
            "closed": MBARRIER,
        }

    @cached_property
    def stages(self) -> int:
        """Of the ring: what there is room for."""
        room = self.plan.shared_limit - sum(round_up(nbytes, LINE) for nbytes in self._small_sizes.values())
        return min(MOST_STAGES, room // (2 * self.stage_elements))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each region."""
        return {**self._small_sizes, "tiles": self.stages * 2 * self.stage_elements}

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each region begins, in bytes; `end` is where the last one ends."""
        return place(self.sizes, {"context": self.places * self._context_tile_bytes}, "chunks")

    @property
    def packets(self) -> int:
        """Of a block and sender, in one exchange of partial sums."""
        return round_up(self.plan.layout.o.pairs_per_block * self.tokens, 8)

    @cached_property
    def inputs(self) -> dict[str, int]:
        """Word offsets of the products' inputs; `words` is the size of all."""
        layout = self.plan.layout
        offsets, at = {}, 0
        for name, product in {"hidden": layout.qkv, "attention": layout.o, "activation": layout.down}.items():
            offsets[name] = at
            words = product.splits * self._chunk_size(product.tile_columns) // 2
            at += round_up(words, LINE // 4)
        return {**offsets, "words": at}

    @cached_property
    def constants(self) -> dict[str, int | float | bool]:
        """The record that device code sees as `plan`."""
        plan, inputs = self.plan, self.inputs
        token_turns, grid_turns = ceil_div(self.tokens, plan.warps), ceil_div(plan.grid, plan.warp)
        values = dict(
            plan.constants,
            tokens=self.tokens,
            stages=self.stages,
            in_flight=min(IN_FLIGHT, self.stages - 1),  # one is at work
            stage_elements=self.stage_elements,
            chunk_elements=self.chunk_elements,
            partial_count=self._partial_bytes // 4,
            band=self.band,
            sum_row=self.sum_row,
            places=self.places,
            attention_floats=ceil_div(ROWS, plan.warp) * (2 * plan.shape.head_dim + 2),
            vectors=self.vectors,
            token_turns=token_turns,
            grid_turns=grid_turns,
            square_turns=token_turns * grid_turns,
            x_qkv=inputs["hidden"],
            x_gate_up=inputs["hidden"],
            x_o=inputs["attention"],
            x_down=inputs["activation"],
        )
        for name, product in zip(("qkv", "o", "gate_up", "down"), self._products, strict=True):
            values[f"{name}_parts"] = self.parts(product)
            values[f"{name}_sums"] = self.sum_stride(product)
        values.update({f"shared_{name}": at for name, at in self.offsets.items()})
        return values


def most_tokens(plan: "Plan", wanted: int) -> PromptPlan:
    """The passes of the most tokens, at most `wanted`, that shared memory has room for; of none if of none it has."""
    for tokens in range(wanted // LEAST_TOKENS * LEAST_TOKENS, 0, -LEAST_TOKENS):
        passes = PromptPlan(plan, tokens)
        if passes.fits:
            return passes
    return PromptPlan(plan, 0)
