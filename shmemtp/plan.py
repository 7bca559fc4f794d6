"""How a model runs on a device: the launch's shape, the split of the work, and where everything lies in memory.

`Plan.constants` is what device code calls `plan`: every number in it is a literal to the GPU's compiler.
"""

from dataclasses import asdict, dataclass, field
from functools import cached_property

from .errors import ShmemtpError
from .model import Layout, ModelShape
from .product import TILE_ROWS, ceil_div, round_up

__all__ = ["Plan", "make_plan"]

GRANULE = 16  # device/attention.py: positions that lie together in the cache
MOST_POSITIONS = 1024  # of a part: their scores stand in shared memory
USUAL_PARTS = 32  # of a context: one to a lane when they are merged
MOST_DEPTH = 8  # stages of a warp's ring: more is far beyond what the memory's latency needs
LINE = 128  # bytes: regions of shared memory start on one


@dataclass(frozen=True)
class Plan:
    """One launch of the decode kernel, the same on every PE of the team.

    grid blocks of `block` threads, in warps of `warp`; each warp has `depth` stages of the weight stream's ring. The
    context is split into `parts`, GRANULE positions at a time. `put` sends between PEs with NVSHMEM's put_signal.
    `trace` has the blocks note when each phase of a layer ended.
    """

    shape: ModelShape
    grid: int
    block: int
    warp: int
    max_tile_columns: int
    max_context: int
    parts: int
    put: bool
    shared_limit: int = field(repr=False)
    trace: bool = False

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.shape, self.grid, self.max_tile_columns)

    @property
    def warps(self) -> int:
        return self.block // self.warp

    @property
    def algorithm(self) -> str:
        return "one-shot-put" if self.put else "one-shot"

    @property
    def cache_positions(self) -> int:
        """Positions of the KV cache, in whole granules."""
        return round_up(self.max_context, GRANULE)

    @property
    def part_positions(self) -> int:
        """Positions of one part at most."""
        return round_up(ceil_div(self.max_context, self.parts), GRANULE)

    @property
    def _scratch(self) -> dict[str, int]:
        """Bytes of attention's shared memory (device/attention.py), each a multiple of LINE."""
        shape = self.shape
        sizes = {
            "vectors": 4 * (shape.group + 2) * shape.head_dim,
            "queries": 2 * shape.group * shape.head_dim,
            "scores": 4 * shape.group * self.part_positions,
            "weights": 2 * shape.group * self.part_positions,
            "totals": 8 * shape.group,
        }
        return {name: round_up(nbytes, LINE) for name, nbytes in sizes.items()}

    @property
    def low_terms(self) -> int:
        """Where the low bf16 terms of a hidden state stand behind the high ones, in elements.

        Two words more than they must: high and low terms, which are read together, lie in other banks.
        """
        layout = self.layout
        return max(product.columns for product in (layout.qkv, layout.gate_up, layout.lm_head)) + 4

    @property
    def x_elements(self) -> int:
        """Elements of a product's input in shared memory, the largest."""
        return max(2 * self.low_terms, *(product.columns for product in self.layout.products))

    @cached_property
    def _small_regions(self) -> dict[str, int]:
        """Bytes of each region of a block's shared memory beside the ring. Attention's scratch shares partial's."""
        lm_head = self.layout.lm_head
        tiles = max(lm_head.splits, *(product.tiles_per_block for product in self.layout.products[:4]))
        return {
            "x": 2 * self.x_elements,
            "partial": max(4 * TILE_ROWS * tiles, sum(self._scratch.values())),
            "logits": 8 * lm_head.pairs_per_block,
            "residual": 8 * self.layout.o.pairs_per_block,
            "sums": 4 * self.warps,
            "flags": 16,
            "rotation": 4 * self.shape.head_dim,
            "keys": 8 * self.warps,
            "numbers": 4 * (self.warps + 4),
        }

    @property
    def turn_tiles(self) -> int:
        """Tiles of lm_head multiplied before their sums become logits: whole rows, as `partial` has room for."""
        row = self.layout.lm_head.splits
        return self._small_regions["partial"] // (4 * TILE_ROWS * row) * row

    @property
    def stage_elements(self) -> int:
        return max(product.tile_elements for product in self.layout.products)

    @cached_property
    def depth(self) -> int:
        """Stages of the ring for each warp: what shared memory has room for."""
        small = sum(round_up(nbytes, LINE) for nbytes in self._small_regions.values())
        stage = self.warps * (2 * self.stage_elements + 8)
        depth = (self.shared_limit - small - LINE) // stage
        if depth < 1:
            raise ShmemtpError(
                f"this model needs {small + LINE + stage} bytes of shared memory a block, "
                f"and the device has {self.shared_limit}"
            )
        return min(depth, MOST_DEPTH)

    @cached_property
    def shared(self) -> dict[str, int]:
        """Byte offsets in a block's shared memory; `bytes` is its size."""
        stages = self.warps * self.depth
        regions = {"ring": 2 * stages * self.stage_elements, "landed": 8 * stages, **self._small_regions}
        offsets, at = {}, 0
        for name, nbytes in regions.items():
            offsets[name] = at
            at += round_up(nbytes, LINE)
        inner = offsets["partial"]
        for name, nbytes in self._scratch.items():
            offsets[name] = inner
            inner += nbytes
        return {**offsets, "bytes": at}

    @cached_property
    def channels(self) -> dict[str, int]:
        """Word offsets of the channels between blocks of one PE, two parities each; `words` is their size."""
        shape = self.shape
        half = shape.head_dim // 2
        sizes = {
            "hidden": 2 * (shape.hidden // 2),
            "qkv": 4 * (shape.qkv_rows // 2),
            "partial": 4 * shape.kv_heads * self.parts * shape.group * (half + 1),
            "attention": 2 * shape.heads * half,
            "activation": 2 * (shape.intermediate // 2),
        }
        offsets, at = {}, 0
        for name, words in sizes.items():
            offsets[name] = at
            at += round_up(2 * words, 32)
        return {**offsets, "words": at}

    @property
    def vote_words(self) -> int:
        """Symmetric words for the votes: two parities, two packets for each PE and block."""
        return 2 * self.shape.tp * self.grid * 8

    @cached_property
    def constants(self) -> dict[str, int | float | bool]:
        """The record that device code sees."""
        shape, layout = self.shape, self.layout
        half = shape.head_dim // 2
        values: dict[str, int | float | bool] = dict(
            asdict(shape),
            norm_eps=float(shape.norm_eps),
            score_scale=float(shape.head_dim**-0.5),
            cache_positions=self.cache_positions,
            part_positions=self.part_positions,
            pes=shape.tp,
            put=self.put,
            trace=self.trace,
            grid=self.grid,
            block=self.block,
            warps=self.warps,
            depth=self.depth,
            stage_elements=self.stage_elements,
            parts=self.parts,
            units=shape.kv_heads * self.parts,
            hidden_pairs=shape.hidden // 2,
            hidden_local=layout.o.pairs_per_block,
            attention_pairs=shape.heads * half,
            attention_local=ceil_div(shape.heads * half, self.grid),
            layer_elements=layout.layer_elements,
            qkv_pairs=layout.qkv.pairs,
            qkv_local=layout.qkv.pairs_per_block,
            gate_up_local=layout.gate_up.pairs_per_block,
            o_start=layout.offsets[1],
            gate_up_start=layout.offsets[2],
            down_start=layout.offsets[3],
            lm_head_rows=2 * layout.lm_head.pairs_per_block,
            lm_head_turn=self.turn_tiles,
            x_elements=self.x_elements,
            low_terms=self.low_terms,
            row_splits=max(layout.o.splits, layout.down.splits),
            partial_count=self._small_regions["partial"] // 4,
        )
        for name, product in zip(("qkv", "o", "gate_up", "down", "lm_head"), layout.products, strict=True):
            values[f"{name}_tiles"] = product.tiles_per_block
            values[f"{name}_splits"] = product.splits
            values[f"{name}_columns"] = product.tile_columns
        values.update({f"shared_{name}": at for name, at in self.shared.items()})
        values.update({f"channel_{name}": at for name, at in self.channels.items()})
        return values


def make_plan(
    shape: ModelShape,
    max_context: int,
    multiprocessors: int,
    shared_limit: int,
    block: int,
    warp: int,
    max_tile_columns: int = 512,
    put: bool = False,
    trace: bool = False,
) -> Plan:
    """The plan for a model on a device of `multiprocessors` and `shared_limit` bytes of shared memory a block."""
    grid = _grid(shape, multiprocessors, max_tile_columns)
    parts = max(1, min(USUAL_PARTS, grid // shape.kv_heads, ceil_div(max_context, GRANULE)))
    parts = max(parts, ceil_div(max_context, MOST_POSITIONS))
    return Plan(shape, grid, block, warp, max_tile_columns, max_context, parts, put, shared_limit, trace)


def _grid(shape: ModelShape, multiprocessors: int, max_tile_columns: int) -> int:
    """Blocks: one a multiprocessor or some fewer, whichever pads the weights least.

    Every block must own a tile's rows of the hidden state: the channels' slots are safe to use again because every
    block takes part in every exchange of it.
    """
    quads = ceil_div(shape.hidden, TILE_ROWS)
    most = min(multiprocessors, quads)
    fitting = [n for n in range(1, most + 1) if ceil_div(quads, ceil_div(quads, n)) == n]
    near = [n for n in fitting if n >= 0.9 * most] or fitting[-1:]
    return min(near, key=lambda n: (Layout(shape, n, max_tile_columns).elements, -n))
