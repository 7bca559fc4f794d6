"""One PE's share of a model: which rows and columns of each of the checkpoint's tensors are its own."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .config import ModelConfig
from .errors import InputError
from .product import ceil_div, round_up
from .weights import Checkpoint

__all__ = ["ModelShape", "Shard", "model_shape", "tensors"]

_EMBEDDING_ROWS = 1 << 13  # rows of the embedding table read at a time


@dataclass(frozen=True)
class ModelShape:
    """What one PE of `tp` holds: the same numbers on every PE. Counts are in elements, padding included.

    Query head h of a PE reads its KV head h // group. A KV head is held once for each group that reads it, on one PE or
    on several.
    """

    hidden: int
    true_hidden: int
    layers: int
    heads: int
    kv_heads: int
    group: int
    head_dim: int
    intermediate: int
    vocab: int
    total_vocab: int
    qkv_bias: bool
    qk_norm: bool
    norm_eps: float
    tp: int

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused projection: query heads, then key heads, then value heads, head_dim rows each."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def attention_columns(self) -> int:
        """Elements of the query heads' outputs, which are the columns of o_proj."""
        return self.heads * self.head_dim


def model_shape(config: ModelConfig, tp: int) -> ModelShape:
    """Split a model over `tp` PEs. Raises `InputError` if they cannot share the attention heads evenly."""
    if config.heads % tp:
        divisors = ", ".join(str(n) for n in range(1, config.heads + 1) if config.heads % n == 0)
        raise InputError(f"{config.heads} attention heads cannot be split over {tp} PEs; {divisors} PEs can share them")
    heads = config.heads // tp
    group = math.gcd(heads, config.heads // config.kv_heads)
    return ModelShape(
        hidden=round_up(config.hidden, 8),
        true_hidden=config.hidden,
        layers=config.layers,
        heads=heads,
        kv_heads=heads // group,
        group=group,
        head_dim=config.head_dim,
        intermediate=round_up(ceil_div(config.intermediate, tp), 8),
        vocab=round_up(ceil_div(config.vocab, tp), 2),
        total_vocab=config.vocab,
        qkv_bias=config.qkv_bias,
        qk_norm=config.qk_norm,
        norm_eps=config.norm_eps,
        tp=tp,
    )


def tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of every tensor that the model reads."""
    hidden, queries, keys = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield "model.embed_tokens.weight", (config.vocab, hidden)
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (rows, hidden)
            if config.qkv_bias:
                yield f"{prefix}.self_attn.{name}_proj.bias", (rows,)
        if config.qk_norm:
            yield f"{prefix}.self_attn.q_norm.weight", (config.head_dim,)
            yield f"{prefix}.self_attn.k_norm.weight", (config.head_dim,)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.gate_proj.weight", (config.intermediate, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (config.intermediate, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, config.intermediate)
    yield "model.norm.weight", (hidden,)
    if not config.tied_embeddings:
        yield "lm_head.weight", (config.vocab, hidden)


class Shard:
    """Reads PE `rank`'s part of a checkpoint, matrix by matrix.

    Matrices are bf16 bits, uint16 [pairs, 2, K] in row pairs as `shmemtp.product.pack` takes them. They are padded with
    zeros to the PE's shape, except that K = hidden is the model's own. Small tensors are float32, padded.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, shape: ModelShape, rank: int) -> None:
        self.config, self.checkpoint, self.shape, self.rank = config, checkpoint, shape, rank

    def qkv(self, layer: int) -> np.ndarray:
        """This PE's query heads, key heads, value heads; K = hidden. Pair d of a head is rows d and d + head_dim / 2,
        which a position rotates together.
        """
        matrix = np.empty((self.shape.qkv_rows, self.shape.true_hidden), np.uint16)
        for at, name, rows in self._qkv_rows():
            matrix[at] = self.checkpoint.read(f"model.layers.{layer}.self_attn.{name}.weight", rows)
        return self._pairs_of_heads(matrix)

    def o(self, layer: int) -> np.ndarray:
        """All hidden rows, the columns of this PE's query heads."""
        return self._row_parallel(f"model.layers.{layer}.self_attn.o_proj.weight", self.shape.attention_columns)

    def gate_up(self, layer: int) -> np.ndarray:
        """Pair j is gate row j and up row j; K = hidden."""
        matrix = np.zeros((self.shape.intermediate, 2, self.shape.true_hidden), np.uint16)
        for side, name in enumerate(("gate_proj", "up_proj")):
            rows = self.checkpoint.read(f"model.layers.{layer}.mlp.{name}.weight", self._share(self.shape.intermediate))
            matrix[: len(rows), side] = rows
        return matrix

    def down(self, layer: int) -> np.ndarray:
        """All hidden rows, the columns of this PE's intermediate elements."""
        return self._row_parallel(f"model.layers.{layer}.mlp.down_proj.weight", self.shape.intermediate)

    def lm_head(self) -> np.ndarray:
        """This PE's rows of the vocabulary; K = hidden."""
        name = "model.embed_tokens.weight" if self.config.tied_embeddings else "lm_head.weight"
        rows = self.checkpoint.read(name, self._share(self.shape.vocab))
        matrix = np.zeros((self.shape.vocab, self.shape.true_hidden), np.uint16)
        matrix[: len(rows)] = rows
        return _pairs(matrix)

    def embedding(self) -> Iterator[np.ndarray]:
        """The whole embedding table in blocks of rows: uint16 [rows, hidden], columns padded."""
        for first in range(0, self.shape.total_vocab, _EMBEDDING_ROWS):
            rows = self.checkpoint.read("model.embed_tokens.weight", slice(first, first + _EMBEDDING_ROWS))
            block = np.zeros((len(rows), self.shape.hidden), np.uint16)
            block[:, : self.shape.true_hidden] = rows
            yield block

    def norms(self) -> np.ndarray:
        """float32 [2 * layers + 1, hidden]: each layer's input norm and post-attention norm, then the final norm."""
        weights = np.zeros((2 * self.shape.layers + 1, self.shape.hidden), np.float32)
        names = [
            f"model.layers.{layer}.{norm}_layernorm"
            for layer in range(self.shape.layers)
            for norm in ("input", "post_attention")
        ]
        for i, name in enumerate([*names, "model.norm"]):
            weights[i, : self.shape.true_hidden] = self.checkpoint.read_float(f"{name}.weight")
        return weights

    def bias(self) -> np.ndarray:
        """float32 [layers, qkv_rows], in the order of `qkv`'s pairs; zeros if the model has none."""
        bias = np.zeros((self.shape.layers, self.shape.qkv_rows), np.float32)
        for layer in range(self.shape.layers if self.shape.qkv_bias else 0):
            for at, name, rows in self._qkv_rows():
                bias[layer, at] = self.checkpoint.read_float(f"model.layers.{layer}.self_attn.{name}.bias", rows)
            bias[layer] = self._pairs_of_heads(bias[layer, :, None]).reshape(-1)
        return bias

    def qk_norm(self) -> np.ndarray:
        """float32 [layers, 2, head_dim]: the norms of a query head and of a key head; ones if the model has none."""
        weights = np.ones((self.shape.layers, 2, self.shape.head_dim), np.float32)
        for layer in range(self.shape.layers if self.shape.qk_norm else 0):
            for i, name in enumerate(("q_norm", "k_norm")):
                weights[layer, i] = self.checkpoint.read_float(f"model.layers.{layer}.self_attn.{name}.weight")
        return weights

    def _qkv_rows(self) -> Iterator[tuple[slice, str, slice]]:
        """For each run of the fused projection's rows: where it goes, its projection, the rows of that tensor."""
        shape, dim = self.shape, self.shape.head_dim
        ratio = self.config.heads // self.config.kv_heads
        first = self.rank * shape.heads
        yield slice(0, shape.heads * dim), "q_proj", slice(first * dim, (first + shape.heads) * dim)
        at = shape.heads * dim
        for name in ("k_proj", "v_proj"):
            for local in range(shape.kv_heads):
                head = (first + local * shape.group) // ratio
                yield slice(at, at + dim), name, slice(head * dim, (head + 1) * dim)
                at += dim

    def _pairs_of_heads(self, matrix: np.ndarray) -> np.ndarray:
        """[heads of head_dim rows, K] -> [rows / 2, 2, K]."""
        halves = matrix.reshape(-1, 2, self.shape.head_dim // 2, matrix.shape[1])
        return np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(len(matrix) // 2, 2, -1)

    def _row_parallel(self, name: str, columns: int) -> np.ndarray:
        part = self.checkpoint.read(name, columns=self._share(columns))
        matrix = np.zeros((self.shape.hidden, columns), np.uint16)
        matrix[: part.shape[0], : part.shape[1]] = part
        return _pairs(matrix)

    def _share(self, size: int) -> slice:
        """This PE's part of a dimension cut into parts of `size`; the last parts may be short or empty."""
        return slice(self.rank * size, (self.rank + 1) * size)


def _pairs(matrix: np.ndarray) -> np.ndarray:
    """[rows, K] -> [rows / 2, 2, K]."""
    return matrix.reshape(len(matrix) // 2, 2, -1)
