"""A model's shape and constants, from a Hugging Face config.json or by a built-in name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .built_in import BUILT_IN
from .errors import CheckpointError, InputError
from .rope import RopeScaling, rotations

__all__ = ["BUILT_IN", "ModelConfig", "RopeScaling", "load_config", "rope_table"]

Json = dict[str, Any]

_QWEN = {"num_key_value_heads": 32, "max_position_embeddings": 32768}
MOST_HEAD_DIM = 256  # a warp of attention has its queries, and the sums of their values, in its registers
_LLAMA_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
_MISTRAL = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
# The architectures supported, each with what transformers assumes where config.json leaves a key out.
_ARCHITECTURES: dict[str, Json] = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048, **_LLAMA_TOKENS},
    "MistralForCausalLM": {**_MISTRAL, **_LLAMA_TOKENS},
    "Qwen2ForCausalLM": _QWEN,
    "Qwen3ForCausalLM": {"head_dim": 128, **_QWEN},
}


@dataclass(frozen=True)
class ModelConfig:
    """What a model is, whole, before it is split over PEs. Counts are in elements, positions in tokens."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    max_position: int
    sliding_window: int | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    folder: Path | None = None
    """Where the weights lie; None for a built-in shape, which has none."""

    def context(self, requested: int | None = None) -> int:
        """The longest sequence that may be decoded, in tokens: `requested`, or the most that the model can do.

        Raises `InputError` if the model has fewer positions, or a sliding window that would begin to matter.
        """
        window = self.sliding_window or self.max_position
        if requested is None:
            return min(window, self.max_position)
        if requested < 1:
            raise InputError(f"the context must be at least 1 token, not {requested}")
        if requested > self.max_position:
            raise InputError(f"a context of {requested} is longer than the model's {self.max_position} positions")
        if requested > window:
            raise InputError(
                f"a context of {requested} is longer than the model's sliding window of {window}, which is not "
                f"supported: ask for a context of at most {window}"
            )
        return requested


def load_config(path_or_name: str | Path) -> ModelConfig:
    """Read a checkpoint folder's config.json (and generation_config.json), or look up a built-in name.

    Parameters
    ----------
    path_or_name
        A folder in Hugging Face's layout, as transformers 4 or 5 writes it, or a key of `BUILT_IN`.

    Raises
    ------
    InputError
        There is no such folder or name.
    CheckpointError
        config.json is missing or broken, or asks for something that is not supported.
    """
    known = BUILT_IN.get(str(path_or_name))
    if isinstance(known, dict):
        return _parse(known, str(path_or_name), None)
    folder = known or Path(path_or_name)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; the built-in models are {', '.join(BUILT_IN)}")
    where = folder / "config.json"
    if not where.is_file():
        raise CheckpointError(f"{folder} holds no config.json: it is not a Hugging Face checkpoint")
    raw = _read_json(where)
    generation = folder / "generation_config.json"
    if generation.is_file():
        tokens = _read_json(generation)
        raw |= {key: tokens[key] for key in ("bos_token_id", "eos_token_id") if key in tokens}
    return _parse(raw, str(where), folder)


def rope_table(config: ModelConfig, max_context: int) -> np.ndarray:
    """Rotary embedding's cosines and sines of every position, as `shmemtp.rope.rotations` lays them out.

    Returns float32 [max_context, head_dim / 2, 2]. Raises `InputError` as `ModelConfig.context` does.
    """
    return rotations(config.head_dim, config.rope_theta, config.rope_scaling, config.context(max_context))


def _read_json(path: Path) -> Json:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return raw


def _parse(raw: Json, where: str, folder: Path | None) -> ModelConfig:
    names = raw.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "none"
    if architecture not in _ARCHITECTURES:
        supported = ", ".join(_ARCHITECTURES)
        raise CheckpointError(f"{where}: architecture {architecture} is not supported; supported are {supported}")
    raw = {**_ARCHITECTURES[architecture], **raw}
    _refuse_unsupported(raw, where, architecture)
    heads, hidden = _positive(raw, where, "num_attention_heads"), _positive(raw, where, "hidden_size")
    kv_heads = _positive(raw, where, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(f"{where}: {heads} attention heads are not a multiple of {kv_heads} KV heads")
    head_dim = _positive(raw, where, "head_dim", hidden // heads)
    if head_dim % 8:
        raise CheckpointError(f"{where}: head_dim {head_dim} is not a multiple of 8, which is not supported")
    if head_dim > MOST_HEAD_DIM:
        raise CheckpointError(f"{where}: head_dim {head_dim} is more than {MOST_HEAD_DIM}, which is not supported")
    layers = _positive(raw, where, "num_hidden_layers")
    max_position = _positive(raw, where, "max_position_embeddings")
    theta, scaling = _rope(raw, where, max_position)
    return ModelConfig(
        architecture=architecture,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_positive(raw, where, "intermediate_size"),
        vocab=_positive(raw, where, "vocab_size"),
        norm_eps=_positive(raw, where, "rms_norm_eps", 1e-6, float),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_embeddings=bool(raw.get("tie_word_embeddings")),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
        max_position=max_position,
        sliding_window=_sliding_window(raw, where, architecture, layers),
        bos_token_id=next(iter(_tokens(raw, where, "bos_token_id")), None),
        eos_token_ids=_tokens(raw, where, "eos_token_id"),
        folder=folder,
    )


def _refuse_unsupported(raw: Json, where: str, architecture: str) -> None:
    activation = raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise CheckpointError(f"{where}: hidden_act {activation} is not supported, only silu is")
    if raw.get("attention_bias") and architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        raise CheckpointError(f"{where}: attention_bias, which also puts a bias on o_proj, is not supported")
    if raw.get("mlp_bias") and architecture == "LlamaForCausalLM":
        raise CheckpointError(f"{where}: mlp_bias is not supported")
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "unknown")
        raise CheckpointError(f"{where}: quantized weights ({method}) are not supported, only bf16, fp16 and fp32 are")


def _positive(raw: Json, where: str, key: str, default: Any = None, kind: Any = int) -> Any:
    """A number above zero; a key that is missing or null takes the default, or is an error if there is none."""
    value = raw.get(key)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"{where}: {key} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > 0:
        noun = "integer" if kind is int else "number"
        raise CheckpointError(f"{where}: {key} must be a positive {noun}, not {value!r}")
    return kind(value)


def _rope(raw: Json, where: str, max_position: int) -> tuple[float, RopeScaling | None]:
    """theta and scaling: together in transformers 5's rope_parameters, apart in transformers 4's keys."""
    rope = {"rope_theta": raw.get("rope_theta")}
    for key in ("rope_scaling", "rope_parameters"):
        if not isinstance(raw.get(key) or {}, dict):
            raise CheckpointError(f"{where}: {key} must be an object, not {raw[key]!r}")
        rope |= raw.get(key) or {}
    theta = _positive(rope, where, "rope_theta", 10000.0, float)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if any(isinstance(value, dict) for value in rope.values()):
        kind = "per layer"
    if kind not in ("default", "llama3"):
        raise CheckpointError(f"{where}: rope type {kind} is not supported, only default and llama3 are")
    if (rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0) != 1.0:
        raise CheckpointError(f"{where}: partial_rotary_factor is not supported: all of a head must be rotated")
    if kind == "default":
        return theta, None
    return theta, RopeScaling(
        factor=_positive(rope, where, "factor", None, float),
        low_freq_factor=_positive(rope, where, "low_freq_factor", None, float),
        high_freq_factor=_positive(rope, where, "high_freq_factor", None, float),
        original_max_position=_positive(rope, where, "original_max_position_embeddings", max_position),
    )


def _sliding_window(raw: Json, where: str, architecture: str, layers: int) -> int | None:
    """The window of the layers that have one; None if every layer sees the whole context."""
    types = raw.get("layer_types")
    if types and set(types) - {"full_attention", "sliding_attention"}:
        raise CheckpointError(f"{where}: layer_types {', '.join(sorted(set(types)))} are not all supported")
    if architecture == "LlamaForCausalLM" or raw.get("sliding_window") is None:
        return None
    if architecture != "MistralForCausalLM":
        first = raw.get("max_window_layers", 28)
        slides = "sliding_attention" in types if types else first < layers
        if not raw.get("use_sliding_window") or not slides:
            return None
    return _positive(raw, where, "sliding_window")


def _tokens(raw: Json, where: str, key: str) -> tuple[int, ...]:
    """One id, a list of ids, or none."""
    value = raw.get(key)
    ids: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise CheckpointError(f"{where}: {key} must be a token id or a list of them, not {value!r}")
    return tuple(ids)
