"""Models known by name: their config.json, or the folder that holds a checkpoint."""

from pathlib import Path
from typing import Any

__all__ = ["BUILT_IN"]


def _llama(layers: int, hidden: int, heads: int, intermediate: int, factor: float, tied: bool) -> dict[str, Any]:
    """config.json of a Llama 3 of Meta's; every one has 8 KV heads."""
    rope = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": intermediate,
        "vocab_size": 128256,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": factor, **rope},
        "max_position_embeddings": 131072,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    }


BUILT_IN: dict[str, dict[str, Any] | Path] = {
    "tiny": Path(__file__).parent / "demo",
    "llama-3.2-1b": _llama(16, 2048, 32, 8192, 32.0, tied=True),
    "llama-3.1-8b": _llama(32, 4096, 32, 14336, 8.0, tied=False),
    "llama-3.1-70b": _llama(80, 8192, 64, 28672, 8.0, tied=False),
}
