"""How a model runs on a device: the launch's shape, the split of the work, and where everything lies in memory.

`Plan.constants` is what device code calls `plan`: every number in it is a literal to the GPU's compiler.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from .errors import ShmemtpError
from .model import Layout, ModelShape
from .product import TILE_ROWS, ceil_div, round_up

__all__ = ["GRANULE", "Plan"]

GRANULE = 16  # device/attention.py: positions that lie together in the cache
MOST_DEPTH = 8  # stages of a warp's ring: more is far beyond what the memory's latency needs
LINE = 128  # bytes: regions of shared memory start on one


@dataclass(frozen=True)
class Plan:
    """Passes over the model in the decode kernel, `tokens` tokens at a time; the same on every PE of the team.

    grid blocks of `block` threads, in warps of `warp`; each warp has `depth` stages of the weight stream's ring. The
    context is split into `parts`, GRANULE positions at a time. `put` sends between PEs with NVSHMEM's put_signal.
    `trace` has the blocks note when each phase of a layer ended. The plan of a launch is for one token; its `prefill`
    is the plan of the passes that feed a prompt, at most `prefill_tokens` tokens each.
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
    prefill_tokens: int = 1
    trace: bool = False
    tokens: int = 1

    @cached_property
    def prefill(self) -> "Plan":
        """The plan of a prompt's passes: as many tokens at once, a power of two, as shared memory has room for."""
        tokens = 1
        while 2 * tokens <= self.prefill_tokens and replace(self, tokens=2 * tokens)._depth > 0:
            tokens *= 2
        return replace(self, tokens=tokens)

    @property
    def shared_bytes(self) -> int:
        """Of the launch: what a block needs for any of its passes."""
        return max(self.shared["bytes"], self.prefill.shared["bytes"])

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
        rows, head_dim = self.shape.group * self.tokens, self.shape.head_dim
        sizes = {
            "vectors": 4 * (rows + 2 * self.tokens) * head_dim,
            "queries": 2 * rows * head_dim,
            "scores": 4 * rows * self.part_positions,
            "weights": 2 * rows * self.part_positions,
            "totals": 8 * rows,
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
    def x_stride(self) -> int:
        """Elements of a token's input of a product in shared memory, the largest."""
        return max(2 * self.low_terms, *(product.columns for product in self.layout.products))

    @cached_property
    def _small_regions(self) -> dict[str, int]:
        """Bytes of each region of a block's shared memory beside the ring. Attention's scratch shares partial's.

        The first three do not depend on the tokens of a pass: they stay where they are from pass to pass.
        """
        lm_head, tokens = self.layout.lm_head, self.tokens
        tiles = max(lm_head.splits, *(product.tiles_per_block for product in self.layout.products[:4]))
        return {
            "flags": 16,
            "keys": 8 * self.warps,
            "numbers": 4 * (self.warps + 4),
            "x": 2 * tokens * self.x_stride,
            "partial": max(4 * TILE_ROWS * tiles * tokens, sum(self._scratch.values())),
            "logits": 8 * lm_head.pairs_per_block if tokens == 1 else 0,
            "residual": 8 * self.layout.o.pairs_per_block * tokens,
            "sums": 4 * self.warps * tokens,
            "rotation": 4 * self.shape.head_dim * tokens,
        }

    @property
    def turn_tiles(self) -> int:
        """Tiles of lm_head multiplied before their sums become logits: whole rows, as `partial` has room for."""
        row = self.layout.lm_head.splits
        return self._small_regions["partial"] // (4 * TILE_ROWS * row) * row

    @property
    def stage_elements(self) -> int:
        return max(product.tile_elements for product in self.layout.products)

    @property
    def _small_bytes(self) -> int:
        return sum(round_up(nbytes, LINE) for nbytes in self._small_regions.values()) + LINE

    @property
    def _round_bytes(self) -> int:
        """What a stage for each warp takes."""
        return self.warps * (2 * self.stage_elements + 8)

    @cached_property
    def _depth(self) -> int:
        return min((self.shared_limit - self._small_bytes) // self._round_bytes, MOST_DEPTH)

    @property
    def depth(self) -> int:
        """Stages of the ring for each warp: what shared memory has room for."""
        if self._depth < 1:
            raise ShmemtpError(
                f"this model needs {self._small_bytes + self._round_bytes} bytes of shared memory a block, "
                f"and the device has {self.shared_limit}"
            )
        return self._depth

    @cached_property
    def shared(self) -> dict[str, int]:
        """Byte offsets in a block's shared memory; `bytes` is its size."""
        stages = self.warps * self.depth
        regions = {**self._small_regions, "ring": 2 * stages * self.stage_elements, "landed": 8 * stages}
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
        sizes = {  # of a token
            "hidden": 2 * (shape.hidden // 2),
            "qkv": 4 * (shape.qkv_rows // 2),
            "partial": 4 * shape.kv_heads * self.parts * shape.group * (half + 1),
            "attention": 2 * shape.heads * half,
            "activation": 2 * (shape.intermediate // 2),
        }
        offsets, at = {}, 0
        for name, words in sizes.items():
            offsets[name] = at
            at += round_up(2 * self.tokens * words, 32)
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
            tokens=self.tokens,
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
            x_elements=self.tokens * self.x_stride,
            x_stride=self.x_stride,
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
