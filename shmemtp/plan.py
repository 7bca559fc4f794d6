"""How a model runs on a device: the launch's shape, the split of the work, and where everything lies in memory.

`Plan.constants` is what device code calls `plan`: every number in it is a literal to the GPU's compiler.
"""

from dataclasses import asdict, dataclass, field
from functools import cached_property

from .model import Layout, ModelShape
from .product import ceil_div, round_up
from .prompt_plan import PromptPlan, most_tokens
from .shared_memory import MOST_QUERIES, PAGE, SharedMemory

__all__ = ["PAGE", "Plan"]

MOST_TOGETHER = 4  # device/merge.py: pairs that a warp merges together
MOST_BATCH = 4  # device/packets.py and norm.py: packets that a thread receives together
AHEAD, AHEAD_CYCLES = 8, 900  # batches asked into the L2 behind a full ring, and how often one is


@dataclass(frozen=True)
class Plan:
    """Passes over the model in the decode kernel; the same on every PE of the team.

    grid blocks of `block` threads that multiply and one warp that feeds them, in warps of `warp`. The context is split
    into `parts`, of which `abreast` take pages in turn (device/cache.py). `put` sends between PEs with NVSHMEM's
    put_signal. `trace` has the blocks note when each phase of a layer ended. `prompt` is the plan of the passes that
    feed a prompt, at most `prefill_tokens` tokens each.
    """

    shape: ModelShape
    grid: int
    block: int
    warp: int
    max_tile_columns: int
    max_context: int
    parts: int
    abreast: int
    put: bool
    shared_limit: int = field(repr=False)
    prefill_tokens: int = 1
    trace: bool = False

    @cached_property
    def prompt(self) -> PromptPlan:
        """The plan of a prompt's passes."""
        return most_tokens(self, self.prefill_tokens)

    @property
    def summary(self) -> str:
        """For people: what must be the same on every PE of a team and is not in the model's shape."""
        return (
            f"{self.grid} blocks of {self.block} threads, a context of {self.max_context} in {self.parts} parts, "
            f"{max(1, self.prompt.tokens)} tokens of a prompt at a time"
        )

    @property
    def shared_bytes(self) -> int:
        """Of the launch: what a block needs for any of its passes."""
        return max(self.memory.offsets["end"], self.prompt.offsets["end"] if self.prompt.tokens else 0)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.shape, self.grid, self.max_tile_columns)

    @property
    def warps(self) -> int:
        return self.block // self.warp

    @property
    def units(self) -> int:
        """Of attention: each one a KV head and a part of the context."""
        return self.shape.kv_heads * self.parts

    @property
    def block_units(self) -> int:
        """How many a block has at most."""
        return ceil_div(self.units, self.grid)

    @property
    def algorithm(self) -> str:
        return "one-shot-put" if self.put else "one-shot"

    @property
    def cache_positions(self) -> int:
        """Positions of the KV cache, in whole pages."""
        return round_up(self.max_context, PAGE)

    @cached_property
    def memory(self) -> SharedMemory:
        return SharedMemory(self.layout, self.warps, self.block_units, self.shared_limit)

    @property
    def threads(self) -> int:
        """Of a block of the launch: the workers and the feeder."""
        return self.block + self.warp

    @cached_property
    def channels(self) -> dict[str, int]:
        """Word offsets of the channels between blocks of one PE, two parities each; `words` is their size."""
        shape = self.shape
        half = shape.head_dim // 2
        sizes = {
            "hidden": 2 * (shape.hidden // 2),
            "qkv": 4 * (shape.qkv_rows // 2),
            "partial": 4 * shape.heads * self.parts * (half + half // self._merge_pairs),
            "attention": 2 * shape.heads * half,
            "activation": 2 * (shape.intermediate // 2),
        }
        offsets, at = {}, 0
        for name, words in sizes.items():
            offsets[name] = at
            at += round_up(2 * words, 32)
        return {**offsets, "words": at}

    @property
    def head_turns(self) -> int:
        """Pairs of a head's dimensions that a lane has, where a warp has the head."""
        return ceil_div(self.shape.head_dim // 2, self.warp)

    @property
    def _merge_pairs(self) -> int:
        """Neighbouring pairs that a warp merges at once: two, four where it would take turns, one where none fit."""
        half = self.shape.head_dim // 2
        local = ceil_div(self.shape.heads * half, self.grid)
        fitting = [n for n in (2, MOST_TOGETHER) if local % n == half % n == 0]
        return next((n for n in fitting if local <= n * self.warps), max(fitting, default=1))

    @property
    def vote_words(self) -> int:
        """Symmetric words for the votes: two parities, two packets for each PE and block."""
        return 2 * self.shape.tp * self.grid * 8

    @cached_property
    def constants(self) -> dict[str, int | float | bool]:
        """The record that device code sees."""
        shape, layout, memory = self.shape, self.layout, self.memory
        half = shape.head_dim // 2
        hidden_batch = min(ceil_div(shape.hidden // 4, self.block), MOST_BATCH)
        values: dict[str, int | float | bool] = dict(
            asdict(shape),
            norm_eps=float(shape.norm_eps),
            score_scale=float(shape.head_dim**-0.5),
            cache_positions=self.cache_positions,
            granule_elements=memory.granule_elements,
            page_elements=memory.page_elements,
            sum_row=memory.sum_row,
            attention_floats=ceil_div(MOST_QUERIES, self.warp) * (2 * shape.head_dim + 2),
            settling=memory.settling,
            query_sets=ceil_div(shape.group, MOST_QUERIES),
            short_context=memory.short_context,
            attending=memory.attending,
            attending_rows=memory.attending_rows,
            pes=shape.tp,
            put=self.put,
            trace=self.trace,
            head_turns=self.head_turns,
            head_words=2 * self.head_turns,
            hidden_batch=hidden_batch,
            merge_pairs=self._merge_pairs,
            head_merges=half // self._merge_pairs,
            grid=self.grid,
            block=self.block,
            threads=self.threads,
            warps=self.warps,
            stages=memory.stages,
            batch=memory.batch,
            in_flight=memory.in_flight,
            short_ring=memory.short_ring,
            ahead=AHEAD,
            ahead_cycles=AHEAD_CYCLES,
            stage_elements=memory.stage_elements,
            parts=self.parts,
            abreast=self.abreast,
            depth=memory.depth,
            units=self.units,
            block_units=self.block_units,
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
            lm_head_turn=memory.lm_head_turn,
            logits_count=memory.sizes["logits"] // 4,
            x_elements=memory.x_elements,
            low_terms=memory.low_terms,
            partial_count=memory.sizes["partial"] // 4,
        )
        for name, product in zip(("qkv", "o", "gate_up", "down", "lm_head"), layout.products, strict=True):
            values[f"{name}_tiles"] = product.tiles_per_block
            values[f"{name}_all_tiles"] = product.tiles
            values[f"{name}_splits"] = product.splits
            values[f"{name}_columns"] = product.tile_columns
        values.update({f"shared_{name}": at for name, at in memory.offsets.items()})
        values.update({f"channel_{name}": at for name, at in self.channels.items()})
        return values
