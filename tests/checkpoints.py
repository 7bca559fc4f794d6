"""Tiny random checkpoints on disk, in Hugging Face's layout, of every architecture that is supported."""

import json
from pathlib import Path

import numpy as np

from shmemtp.config import ModelConfig, load_config
from shmemtp.shard import tensors
from shmemtp.weights import from_bfloat16, to_bfloat16

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ARCHITECTURES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "rope_scaling": LLAMA3_ROPE},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": None},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
}
SHAPE = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "intermediate_size": 136,
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def make(folder, architecture="llama", *, dtype="bf16", shards=1, seed=0, **overrides) -> Path:
    """Write a checkpoint and return its folder.

    Parameters
    ----------
    architecture
        llama, mistral, qwen2 or qwen3.
    dtype
        The file's numbers: bf16, fp16 or fp32. All three hold the same values, which are random but for the seed.
    shards
        Files to spread the tensors over; more than one come with an index.
    overrides
        Keys of config.json, as Hugging Face names them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"model_type": architecture, **SHAPE, **ARCHITECTURES[architecture], **overrides}
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    weights = random_weights(load_config(folder), seed)
    if shards == 1:
        save(folder / "model.safetensors", weights, dtype)
        return folder
    placed = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(weights)}
    for file in sorted(set(placed.values())):
        save(folder / file, {name: weights[name] for name in weights if placed[name] == file}, dtype)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def random_weights(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """float32 that bf16 and fp16 hold exactly, scaled so that activations stay near 1 and logits differ by several.

    Each layer adds about as much as the embedding was, and attention's scores are near 1: where layers weigh more or
    attention is sharper, rounding activations to bf16, as decoders do, is itself an error near 1e-2.
    """
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in tensors(config):
        values = generator.standard_normal(shape, np.float32) * scale(name, shape) + name.endswith("norm.weight")
        values = from_bfloat16(to_bfloat16(values))
        weights[name] = np.where(np.abs(values) < 2.0**-14, np.float32(0), values)  # fp16 has fewer bits below
    return weights


def scale(name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation of a tensor's entries."""
    if len(shape) == 1:
        return 0.2
    if "embed_tokens" in name:
        return 1.0
    return (4.0 if "lm_head" in name else 1.0) / shape[1] ** 0.5


def save(file: Path, weights: dict[str, np.ndarray], dtype="bf16") -> None:
    """One safetensors file: 8 bytes of header length, the header, the tensors' bytes."""
    encode = {"bf16": to_bfloat16, "fp16": np.float16, "fp32": np.float32}[dtype]
    header, blobs, at = {}, [], 0
    for name, values in weights.items():
        blob = encode(values).tobytes()
        kind = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[dtype]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
