"""The model in plain NumPy, float32, on one process: what every PE count and both backends must agree with."""

import numpy as np

from shmemtp.config import load_config, rope_table
from shmemtp.weights import Checkpoint, from_bfloat16


class Reference:
    """A whole checkpoint's forward pass. Matrices are rounded to bf16 as they are on the PEs, sums are float32."""

    def __init__(self, folder) -> None:
        self.config = load_config(folder)
        self.checkpoint = Checkpoint(folder)

    def logits(self, ids) -> np.ndarray:
        """float32 [len(ids), vocab]: row i is what follows ids[: i + 1]."""
        x = self.matrix("model.embed_tokens")[np.asarray(ids)]  # [positions, hidden]
        for layer in range(self.config.layers):
            prefix = f"model.layers.{layer}"
            x = x + self.attention(f"{prefix}.self_attn", self.norm(f"{prefix}.input_layernorm", x))
            x = x + self.mlp(f"{prefix}.mlp", self.norm(f"{prefix}.post_attention_layernorm", x))
        head = "model.embed_tokens" if self.config.tied_embeddings else "lm_head"
        return self.norm("model.norm", x) @ self.matrix(head).T

    def greedy(self, ids, count: int) -> tuple[list[int], list[float]]:
        """The `count` likeliest tokens after `ids`, and by how much each one's logit led the second one's."""
        ids, margins = list(ids), []
        for _ in range(count):
            last = self.logits(ids)[-1]
            second, first = np.sort(last)[-2:]
            ids.append(int(last.argmax()))
            margins.append(float(first - second))
        return ids[-count:], margins

    def attention(self, prefix: str, x: np.ndarray) -> np.ndarray:
        config, positions = self.config, len(x)
        q = self.heads(f"{prefix}.q", x, config.heads)  # [heads, positions, head_dim]
        k = self.heads(f"{prefix}.k", x, config.kv_heads)
        v = self.heads(f"{prefix}.v", x, config.kv_heads)
        if config.qk_norm:
            q, k = self.norm(f"{prefix}.q_norm", q), self.norm(f"{prefix}.k_norm", k)
        table = rope_table(config, positions)
        q, k = rotate(q, table), rotate(k, table)
        k, v = (np.repeat(t, config.heads // config.kv_heads, axis=0) for t in (k, v))
        scores = q @ k.transpose(0, 2, 1) / np.float32(config.head_dim) ** 0.5
        scores = np.where(np.tri(positions, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(positions, -1)  # [positions, heads * head_dim]
        return mixed @ self.matrix(f"{prefix}.o_proj").T

    def heads(self, prefix: str, x: np.ndarray, count: int) -> np.ndarray:
        y = x @ self.matrix(f"{prefix}_proj").T
        if self.config.qkv_bias:
            y = y + self.checkpoint.read_float(f"{prefix}_proj.bias")
        return y.reshape(len(x), count, self.config.head_dim).transpose(1, 0, 2)

    def mlp(self, prefix: str, x: np.ndarray) -> np.ndarray:
        gate, up = (x @ self.matrix(f"{prefix}.{name}_proj").T for name in ("gate", "up"))
        return (gate / (1 + np.exp(-gate)) * up) @ self.matrix(f"{prefix}.down_proj").T

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        mean = np.square(x).mean(-1, keepdims=True)
        return x / np.sqrt(mean + np.float32(self.config.norm_eps)) * self.checkpoint.read_float(f"{name}.weight")

    def matrix(self, name: str) -> np.ndarray:
        return from_bfloat16(self.checkpoint.read(f"{name}.weight"))


def rotate(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """x [heads, positions, head_dim], table [positions, head_dim / 2, 2]."""
    low, high = np.split(x, 2, axis=-1)
    cos, sin = table[..., 0], table[..., 1]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
