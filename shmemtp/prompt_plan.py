"""How a prompt's passes run on a device: how many tokens each takes, which warp multiplies what, where it all lies."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from .product import COLUMNS, TILE_ROWS, Product, ceil_div, round_up
from .shared_memory import LINE, MBARRIER, place

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["LEAST_TOKENS", "MOST_TOKENS", "PromptPlan", "most_tokens"]

LEAST_TOKENS = 16  # of a pass, and what the others are multiples of
MOST_TOKENS = 256
MOST_VECTORS = 32  # device/backend/README.md: `add_products` takes so many, or LEAST_TOKENS
EIGHT = 8  # the same: rows are a multiple
MOST_ROWS, WARP = 56, 32  # the same: a GPU's warp has registers for their sums
MOST_PARTS = 4
MOST_SHARING = 2
LEAST_PLACES, MOST_PLACES = 2, 8  # device/prompt/ring.py: steps that the ring has room for
ROWS = 8  # device/prompt/attention.py: of a warp
TOGETHER = 4  # device/prompt/hidden.py: tokens whose squares a warp loads at once
LEAST_TILES, MOST_TILES = 2, 6  # of the context that a block holds: one is at work


@dataclass(frozen=True)
class Work:
    """How the warps share a product: row groups times token groups times parts of the columns; and the ring's steps."""

    row_groups: int
    warp_rows: int
    parts: int
    places: int

    @property
    def rows(self) -> int:
        return self.row_groups * self.warp_rows


@dataclass(frozen=True)
class PromptPlan:
    """Passes of at most `tokens` tokens of a prompt, in the launches of `plan`; the same on every PE of the team."""

    plan: "Plan"
    tokens: int
    sharing: int = 1  # neighbouring blocks that share the rows of all of them and divide the tokens

    @property
    def warps(self) -> int:
        """Of a block: the feeder's is a worker here."""
        return self.plan.threads // self.plan.warp

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return self.tokens // self.sharing

    @property
    def vectors(self) -> int:
        """Tokens that a warp multiplies at once: more where there are too few warps for all groups."""
        tokens = self.block_tokens
        first = MOST_VECTORS if tokens % MOST_VECTORS == 0 else LEAST_TOKENS
        enough = (n for n in range(first, tokens, LEAST_TOKENS) if tokens % n == 0 and tokens // n <= self.warps)
        return next(enough, tokens or LEAST_TOKENS)

    @property
    def token_groups(self) -> int:
        return max(1, self.block_tokens // self.vectors)

    @property
    def _products(self) -> tuple[Product, ...]:
        return self.plan.layout.products[:4]

    @cached_property
    def works(self) -> tuple[Work, ...]:
        """Of qkv, o, gate_up and down."""
        return tuple(self._work(product) for product in self._products)

    def rows(self, product: Product) -> int:
        """Of a block."""
        return 2 * self.sharing * product.pairs_per_block

    def _work(self, product: Product) -> Work:
        """As few row groups as a warp's registers allow, so that inputs are read from shared memory seldom."""
        abreast = max(1, self.warps // self.token_groups)  # row groups times parts
        eights, slices = ceil_div(self.rows(product), EIGHT), product.splits * product.tile_columns // COLUMNS
        least = min(abreast, ceil_div(eights, MOST_ROWS // EIGHT))
        for parts in (n for n in range(min(abreast // least, MOST_PARTS), 0, -1) if slices % n == 0):
            row_groups = min(eights, abreast // parts)
            work = Work(row_groups, EIGHT * ceil_div(eights, row_groups), parts, 0)
            places = min(MOST_PLACES, slices // parts + 1, self._ring_room // self._step_bytes(work))
            if places >= LEAST_PLACES and self._sum_bytes(work) <= self._ring_room:
                return replace(work, places=places)
        return work

    @property
    def traffic(self) -> int:
        """Elements that a block reads in a layer."""
        return sum(product.columns * (self.rows(product) + self.block_tokens) for product in self._products)

    def _step_bytes(self, work: Work) -> int:
        return 2 * work.parts * (work.rows + self.block_tokens) * COLUMNS

    def sum_stride(self, work: Work) -> int:
        """Floats from a token's sums to the next one's: eight to have them in other banks."""
        return round_up(work.rows, 32) + 8

    def _sum_bytes(self, work: Work) -> int:
        return 4 * work.parts * self.block_tokens * self.sum_stride(work)

    @property
    def fits(self) -> bool:
        return (
            LEAST_TOKENS <= self.block_tokens
            and self.tokens % (self.sharing * LEAST_TOKENS) == 0
            and self.plan.grid % self.sharing == 0
            and LEAST_TILES * self._tile_bytes <= self._ring_room
            and all(work.places >= LEAST_PLACES for work in self.works)
            and (self.plan.warp < WARP or max(work.warp_rows for work in self.works) <= MOST_ROWS)
            and (self.plan.warp < WARP or self.vectors <= MOST_VECTORS)
        )

    @property
    def band(self) -> int:
        """Rows of a unit of attention (device/prompt/attention.py): a full pass's make bands of the same size."""
        rows = self.plan.shape.group * self.tokens
        bands = max(1, ceil_div(rows, ROWS * self.warps))
        return max(ROWS, round_up(ceil_div(rows, bands), ROWS))

    @property
    def sums(self) -> int:
        """Floats of what all units find."""
        bands = ceil_div(self.plan.shape.group * self.tokens, self.band)
        return max(self.plan.grid, self.plan.shape.kv_heads * bands) * self.band * self.plan.memory.sum_row

    @property
    def _tile_bytes(self) -> int:
        """Of the context: keys and values of two granules."""
        return 2 * 4 * self.plan.memory.granule_elements

    @property
    def tiles(self) -> int:
        """Of the context that a block holds at a time."""
        return min(MOST_TILES, self._ring_room // self._tile_bytes)

    @cached_property
    def _small_sizes(self) -> dict[str, int]:
        """Bytes of each region beside the ring. The first four are where the other passes have them."""
        return {
            **{name: self.plan.memory.sizes[name] for name in ("flags", "keys", "numbers", "epoch")},
            "residual": 4 * self.rows(self.plan.layout.o) * self.block_tokens,
            "factors": 4 * self.block_tokens,
            "counts": 4 * self.band,
            "context_landed": MBARRIER * MOST_TILES,
            "landed": MBARRIER * MOST_PLACES,
        }

    @cached_property
    def _ring_room(self) -> int:
        return self.plan.shared_limit - sum(round_up(nbytes, LINE) for nbytes in self._small_sizes.values())

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each region. In the ring lie a product's steps, then its sums, and tiles of the context."""
        steps = [work.places * self._step_bytes(work) for work in self.works]
        sums = [self._sum_bytes(work) for work in self.works]
        return {**self._small_sizes, "ring": max(*steps, *sums, self.tiles * self._tile_bytes)}

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each region begins, in bytes; `end` is where the last one ends."""
        return place(self.sizes)

    @property
    def packets(self) -> int:
        """From each PE to each block, in one shot of an exchange of partial sums."""
        pairs = self.plan.layout.o.pairs_per_block * self.tokens
        return round_up(ceil_div(pairs, self.plan.shape.tp), 8)

    @cached_property
    def inputs(self) -> dict[str, int]:
        """Word offsets of the products' inputs; `words` is the size of all."""
        layout = self.plan.layout
        offsets, at = {}, 0
        for name, product in {"hidden": layout.qkv, "attention": layout.o, "activation": layout.down}.items():
            offsets[name] = at
            at += product.columns * self.tokens // 2
        return {**offsets, "words": at}

    @cached_property
    def constants(self) -> dict[str, int | float | bool]:
        """The record that device code sees as `plan`."""
        plan, inputs = self.plan, self.inputs
        sets = plan.grid // self.sharing
        set_turns = ceil_div(sets, plan.warp)
        values = dict(
            plan.constants,
            tokens=self.tokens,
            sharing=self.sharing,
            block_tokens=self.block_tokens,
            hidden_local=self.rows(plan.layout.o) // 2,
            qkv_local=self.rows(plan.layout.qkv) // 2,
            gate_up_local=self.rows(plan.layout.gate_up) // 2,
            block=plan.threads,
            warps=self.warps,
            ring_elements=self.sizes["ring"] // 2,
            partial_count=self.sizes["ring"] // 4,
            warp_products=max(ceil_div(work.warp_rows * self.vectors, plan.warp) for work in self.works),
            band=self.band,
            sum_row=self.plan.memory.sum_row,
            places=self.tiles,
            attention_floats=ceil_div(ROWS, plan.warp) * (2 * plan.shape.head_dim + 2),
            vectors=self.vectors,
            sets=sets,
            set_turns=set_turns,
            held_squares=TOGETHER * set_turns,
            x_qkv=inputs["hidden"],
            x_gate_up=inputs["hidden"],
            x_o=inputs["attention"],
            x_down=inputs["activation"],
        )
        for name, product, work in zip(("qkv", "o", "gate_up", "down"), self._products, self.works, strict=True):
            values[f"{name}_rows"] = self.rows(product)
            values[f"{name}_all_rows"] = product.tiles // product.splits * TILE_ROWS
            values[f"{name}_warp_rows"] = work.warp_rows
            values[f"{name}_room"] = work.rows
            values[f"{name}_parts"] = work.parts
            values[f"{name}_places"] = work.places
            values[f"{name}_sums"] = self.sum_stride(work)
        values.update({f"shared_{name}": at for name, at in self.offsets.items()})
        return values


def most_tokens(plan: "Plan", wanted: int) -> PromptPlan:
    """The passes of the most tokens, at most `wanted`, that a block has room for; of none if of none it has."""
    for tokens in range(wanted // LEAST_TOKENS * LEAST_TOKENS, 0, -LEAST_TOKENS):
        found = [PromptPlan(plan, tokens, sharing) for sharing in (1, MOST_SHARING)]
        fitting = [passes for passes in found if passes.fits]
        if fitting:
            return min(fitting, key=lambda passes: passes.traffic)
    return PromptPlan(plan, 0)
