"""How a block's shared memory is divided: what passes over a model need, and the weight stream's ring in the rest."""

from dataclasses import dataclass
from functools import cached_property

from .errors import ShmemtpError
from .model import Layout
from .product import GROUP, TILE_ROWS, ceil_div, round_up

__all__ = ["SharedMemory", "pages_of_a_turn", "place"]

MOST_DEPTH = 8  # stages for each warp: more is far beyond what the memory's latency needs
IN_FLIGHT = 3  # batches under way: with less bytes the memory is not at its full rate, with more it answers late
LIGHT_LAYER = 640 * 1024  # a layer with fewer bytes for each block is bound by its hops, not by the memory's rate
MOST_ATTENDING = 8  # warps that have a part's pages: each one's results stand in shared memory
ATTENDED = 128 * 1024  # bytes of the ring that their pages may take
MOST_QUERIES = 8  # device/part.py: that a warp takes at once
PART_WORDS = 4 + MOST_QUERIES  # device/part.py: what a block keeps of a unit
MBARRIER = 8  # bytes
LINE = 128  # bytes: regions start on one
ALIGNED = 8  # elements: what copies and vectors begin at multiples of
GRANULE, PAGE = 16, 32  # device/cache.py: positions that tensor cores take together, and that lie together


@dataclass(frozen=True)
class SharedMemory:
    """Of a block of so many warps and units of attention, at most `limit` bytes."""

    layout: Layout
    warps: int
    units: int
    limit: int

    @property
    def low_terms(self) -> int:
        """Where the low bf16 terms of a hidden state stand behind the high ones, in elements.

        Two words more than they must: high and low terms, which are read together, lie in other banks.
        """
        layout = self.layout
        return max(product.columns for product in (layout.qkv, layout.gate_up, layout.lm_head)) + 4

    @property
    def x_elements(self) -> int:
        """Of the largest input of a product."""
        return max(2 * self.low_terms, *(product.columns for product in self.layout.products))

    @property
    def attending(self) -> int:
        """Warps of a block that have a part's pages in turn."""
        return min(self.warps, MOST_ATTENDING, ATTENDED // (4 * self.page_elements))

    @property
    def attending_rows(self) -> int:
        """Queries that they attend to together."""
        return min(self.layout.shape.group, MOST_QUERIES)

    @property
    def sum_row(self) -> int:
        """float32 values of what a warp has found of a query, at multiples of 16 bytes."""
        return self.layout.shape.head_dim + 4

    @property
    def granule_elements(self) -> int:
        """Of a granule's keys, or values: dimensions in sixteens, as tensor cores take them."""
        return GRANULE * round_up(self.layout.shape.head_dim, 16)

    @property
    def page_elements(self) -> int:
        """Of a page's keys, or values."""
        return PAGE // GRANULE * self.granule_elements

    @property
    def depth(self) -> int:
        """Pages of a part in a turn."""
        return pages_of_a_turn(self.warps)

    @cached_property
    def _scratch(self) -> dict[str, int]:
        """Bytes of attention's regions (device/attention.py), each a multiple of LINE."""
        shape = self.layout.shape
        sizes = {
            "heads": 2 * (shape.group + 2) * shape.head_dim,
            "found": 4 * self.attending * self.attending_rows * self.sum_row,
        }
        return {name: round_up(nbytes, LINE) for name, nbytes in sizes.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each region beside the ring. Attention's of a layer share x's, which holds nothing between products.

        The first four stay where they are in a prompt's passes (prompt_plan.py).
        """
        lm_head = self.layout.lm_head
        tiles = max(self._lm_head_group, *(product.tiles_per_block for product in self.layout.products[:4]))
        return {
            "flags": 16,
            "keys": 8 * (self.warps + 1),  # in a prompt's passes the feeder's warp votes, too
            "numbers": 4 * (self.warps + 4),
            "epoch": 8,
            "x": max(2 * self.x_elements, sum(self._scratch.values())),
            "partial": 4 * TILE_ROWS * (tiles + self.batch - 1),
            "logits": 8 * lm_head.pairs_per_block,
            "residual": 8 * self.layout.o.pairs_per_block,
            "sums": 4 * self.warps,
            "rotation": 4 * self.layout.shape.head_dim,
            "parts": 4 * PART_WORDS * (1 + self.units),
        }

    @property
    def _lm_head_group(self) -> int:
        """Tiles of lm_head that are multiplied together at least: a whole group's."""
        return min(GROUP * self.layout.lm_head.splits, self.layout.lm_head.tiles_per_block)

    @property
    def lm_head_turn(self) -> int:
        """Tiles of lm_head multiplied before their sums become logits: whole groups, as `partial` has room for."""
        room = self.sizes["partial"] // (4 * TILE_ROWS) - self.batch + 1
        return room // self._lm_head_group * self._lm_head_group

    @property
    def stage_elements(self) -> int:
        """Of the largest tile; a batch of stages has room for a page's keys and values, too."""
        tiles = [product.tile_elements for product in self.layout.products]
        return max(*tiles, round_up(ceil_div(2 * self.page_elements, self.batch), ALIGNED))

    @property
    def _small_bytes(self) -> int:
        return sum(round_up(nbytes, LINE) for nbytes in self.sizes.values()) + 3 * LINE

    @property
    def batch(self) -> int:
        """Stages that are fetched together."""
        return self.layout.qkv.batch

    @property
    def _batch_bytes(self) -> int:
        return 2 * self.batch * self.stage_elements + 2 * MBARRIER

    @property
    def _batches(self) -> int:
        return min((self.limit - self._small_bytes) // self._batch_bytes, MOST_DEPTH * self.warps // self.batch)

    @property
    def _least_batches(self) -> int:
        """Room for a tile of each warp, and for what is fetched meanwhile; for a page of each warp that attends.

        With fewer a warp's first page might lie two turns of the ring ahead, which parities cannot tell from none.
        """
        return max(2, ceil_div(self.warps, self.batch), self.attending)

    @property
    def fits(self) -> bool:
        return self._batches >= self._least_batches

    def check(self) -> None:
        """Raises if a block has no room for this model."""
        if not self.fits:
            least = self._small_bytes + self._least_batches * self._batch_bytes
            raise ShmemtpError(
                f"this model needs {least} bytes of shared memory a block, and the device has {self.limit}"
            )

    @property
    def stages(self) -> int:
        """Of the ring: what there is room for."""
        self.check()
        return self._batches * self.batch

    @property
    def in_flight(self) -> int:
        """Batches that are under way at the same time."""
        is_light = 2 * self.layout.layer_elements < LIGHT_LAYER * self.layout.grid
        return min(IN_FLIGHT - 1 if is_light else IN_FLIGHT, self._batches)

    @property
    def short_ring(self) -> bool:
        """Whether a warp may come to a batch of stages while what it held last is still under way.

        The tile that the warp had before was fetched after all but `in_flight` batches before it had landed.
        """
        return (self.stages - self.warps) // self.batch < self.in_flight

    @property
    def short_context(self) -> bool:
        """The same where warps take pages in turn: the one that the warp had before lies `attending` batches back."""
        return self._batches - self.attending < self.in_flight

    @property
    def settling(self) -> int:
        """How many tokens the feeder may be ahead of the workers.

        By the batches of weights that a token takes in the last block, which has the fewest, but rows of o.
        """
        least = 0
        for product in self.layout.products[:4]:
            before = product.tiles_per_block * (product.grid - 1)
            least += ceil_div(max(0, min(product.tiles_per_block, product.tiles - before)), self.batch)
        return ceil_div(self._batches, self.layout.shape.layers * least)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each region begins, in bytes; `end` is where the last one ends."""
        barriers = {"landed": MBARRIER * self._batches, "free": MBARRIER * self._batches, "closed": MBARRIER}
        regions = {**self.sizes, "ring": 2 * self.stages * self.stage_elements, **barriers}
        offsets = place(regions)
        return {**place(self._scratch, offsets["x"]), **offsets}


def pages_of_a_turn(warps: int) -> int:
    """Pages that a part takes before the next parts join: as many positions as if each warp had a granule."""
    return ceil_div(min(warps, MOST_ATTENDING) * GRANULE, PAGE)


def place(sizes: dict[str, int], at: int = 0) -> dict[str, int]:
    """Where regions of so many bytes begin, one after another from `at` on; and `end`."""
    offsets = {}
    for name, nbytes in sizes.items():
        offsets[name] = at
        at += round_up(nbytes, LINE)
    return {**offsets, "end": at}
