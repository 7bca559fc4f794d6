"""config.json in, ModelConfig out: both generations of transformers, built-in names, and what is refused."""

import json
import re

import numpy as np
import pytest
from checkpoints import LLAMA3_ROPE, SHAPE, make

from shmemtp.built_in import BUILT_IN
from shmemtp.config import RopeScaling, load_config, rope_table
from shmemtp.errors import CheckpointError, InputError

LLAMA = {"architectures": ["LlamaForCausalLM"], **SHAPE}


def write(folder, raw, generation=None):
    (folder / "config.json").write_text(json.dumps(raw))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def load(folder, **overrides):
    """Llama's tiny shape with keys changed, or left out where the value is ...."""
    return load_config(write(folder, {k: v for k, v in {**LLAMA, **overrides}.items() if v is not ...}))


def test_every_field(tmp_path):
    config = load(tmp_path, rope_scaling=LLAMA3_ROPE, tie_word_embeddings=True)
    assert config.architecture == "LlamaForCausalLM"
    assert (config.hidden, config.layers, config.heads, config.kv_heads, config.head_dim) == (96, 2, 12, 4, 16)
    assert (config.intermediate, config.vocab, config.max_position) == (136, 101, 512)
    assert (config.norm_eps, config.rope_theta) == (1e-5, 10000.0)
    assert config.rope_scaling == RopeScaling(4.0, 1.0, 4.0, 64)
    assert config.tied_embeddings and not config.qkv_bias and not config.qk_norm
    assert (config.bos_token_id, config.eos_token_ids, config.sliding_window) == (1, (2,), None)
    assert config.folder == tmp_path


@pytest.mark.parametrize(
    ("architecture", "bias", "norm"),
    [("llama", False, False), ("mistral", False, False), ("qwen2", True, False), ("qwen3", False, True)],
)
def test_architectures(tmp_path, architecture, bias, norm):
    config = load_config(make(tmp_path, architecture))
    assert (config.qkv_bias, config.qk_norm) == (bias, norm)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("llama-3.2-1b", (2048, 16, 32, 8, 64, 8192, 128256, 32.0, True)),
        ("llama-3.1-8b", (4096, 32, 32, 8, 128, 14336, 128256, 8.0, False)),
        ("llama-3.1-70b", (8192, 80, 64, 8, 128, 28672, 128256, 8.0, False)),
    ],
)
def test_built_in_shapes(name, shape):
    c = load_config(name)
    counts = (c.hidden, c.layers, c.heads, c.kv_heads, c.head_dim, c.intermediate, c.vocab)
    assert (*counts, c.rope_scaling.factor, c.tied_embeddings) == shape
    assert (c.rope_theta, c.norm_eps, c.max_position, c.folder) == (500000.0, 1e-5, 131072, None)
    assert c.rope_scaling.original_max_position == 8192


def test_tiny_is_the_demo_folder():
    config = load_config("tiny")
    assert config.folder == BUILT_IN["tiny"]
    assert config.architecture == "LlamaForCausalLM"


def test_keys_of_transformers_5(tmp_path):
    four = load(tmp_path, rope_scaling=LLAMA3_ROPE, rope_theta=5e5)
    rope = {"rope_theta": 5e5, **LLAMA3_ROPE}
    five = load(tmp_path, rope_theta=..., torch_dtype=..., rope_parameters=rope, dtype="bfloat16")
    assert five == four


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_reads_what_transformers_writes(tmp_path, architecture):
    transformers = pytest.importorskip("transformers")
    make(tmp_path / "four", architecture)
    transformers.AutoConfig.from_pretrained(tmp_path / "four").save_pretrained(tmp_path / "five")
    four, five = load_config(tmp_path / "four"), load_config(tmp_path / "five")
    assert "rope_parameters" in json.loads((tmp_path / "five" / "config.json").read_text())
    assert five == type(four)(**{**vars(four), "folder": five.folder})


def test_keys_left_out_take_what_transformers_assumes(tmp_path):
    config = load(tmp_path, num_key_value_heads=..., head_dim=None, rope_theta=..., hidden_act=..., eos_token_id=...)
    assert (config.kv_heads, config.head_dim, config.rope_theta, config.eos_token_ids) == (12, 8, 10000.0, (2,))


def test_older_name_of_the_rope_type(tmp_path):
    scaling = {"type": "llama3", **{k: v for k, v in LLAMA3_ROPE.items() if k != "rope_type"}}
    assert load(tmp_path, rope_scaling=scaling).rope_scaling == RopeScaling(4.0, 1.0, 4.0, 64)


def test_stop_tokens(tmp_path):
    assert load(tmp_path, eos_token_id=[5, 7]).eos_token_ids == (5, 7)
    assert load(tmp_path, eos_token_id=None).eos_token_ids == ()
    config = load_config(write(tmp_path, LLAMA, {"eos_token_id": [3, 4], "temperature": 0.6}))
    assert (config.eos_token_ids, config.bos_token_id) == ((3, 4), 1)


def test_sliding_windows(tmp_path):
    mistral = {"architectures": ["MistralForCausalLM"]}
    assert load(tmp_path, **mistral).sliding_window == 4096
    assert load(tmp_path, **mistral, sliding_window=None).sliding_window is None
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64}
    assert load(tmp_path, **qwen, use_sliding_window=False).sliding_window is None
    assert load(tmp_path, **qwen, use_sliding_window=True, max_window_layers=2).sliding_window is None
    assert load(tmp_path, **qwen, use_sliding_window=True, max_window_layers=1).sliding_window == 64
    types = ["full_attention", "sliding_attention"]
    assert load(tmp_path, **qwen, use_sliding_window=True, layer_types=types).sliding_window == 64


def test_context(tmp_path):
    config = load(tmp_path, architectures=["MistralForCausalLM"], sliding_window=128)
    assert (config.context(), config.context(100), config.context(128)) == (128, 100, 128)
    with pytest.raises(InputError, match="context of 129 .* sliding window of 128"):
        config.context(129)
    with pytest.raises(InputError, match="context of 513 is longer than the model's 512 positions"):
        rope_table(config, 513)
    with pytest.raises(InputError, match="at least 1 token, not 0"):
        config.context(0)
    assert load(tmp_path).context() == 512


@pytest.mark.parametrize("scaling", [None, LLAMA3_ROPE])
@pytest.mark.parametrize(("head_dim", "theta"), [(16, 10000.0), (128, 500000.0), (80, 1000000.0)])
def test_rope_is_that_of_transformers(tmp_path, scaling, head_dim, theta):
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    positions = 8192
    scaling = scaling and {**scaling, "original_max_position_embeddings": 1024}
    load(tmp_path, rope_scaling=scaling, head_dim=head_dim, rope_theta=theta, max_position_embeddings=positions)
    table = rope_table(load_config(tmp_path), positions)
    assert table.shape == (positions, head_dim // 2, 2) and table.dtype == np.float32
    embedding = llama.LlamaRotaryEmbedding(llama.LlamaConfig.from_pretrained(tmp_path))
    expected = embedding(torch.zeros(1), torch.arange(positions)[None])
    for i, part in enumerate(expected):
        # one frequency's last bit, which far positions magnify
        np.testing.assert_allclose(table[..., i], part[0, :, : head_dim // 2], atol=positions * 2.0**-23)
        np.testing.assert_allclose(table[:64, :, i], part[0, :64, : head_dim // 2], atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM is not supported; supported are LlamaForCausalLM"),
        ({"architectures": ...}, "architecture none is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"attention_bias": True}, "attention_bias, which also puts a bias on o_proj"),
        ({"architectures": ["Qwen3ForCausalLM"], "attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized weights (gptq)"),
        ({"head_dim": 12}, "head_dim 12 is not a multiple of 8"),
        ({"head_dim": 264}, "head_dim 264 is more than 256"),
        ({"num_key_value_heads": 5}, "12 attention heads are not a multiple of 5 KV heads"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type yarn is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope type linear is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope type per layer is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor is missing"),
        ({"rope_scaling": [4.0]}, "rope_scaling must be an object, not [4.0]"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"hidden_size": "96"}, "hidden_size must be a positive integer, not '96'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, not 0"),
        ({"vocab_size": 10.5}, "vocab_size must be a positive integer, not 10.5"),
        ({"rms_norm_eps": True}, "rms_norm_eps must be a positive number, not True"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id or a list of them, not '</s>'"),
    ],
)
def test_refused(tmp_path, overrides, message):
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load(tmp_path, **overrides)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="holds no config.json"):
        load_config(tmp_path)
    with pytest.raises(InputError, match="no folder .*nowhere; the built-in models are tiny, llama-3.2-1b"):
        load_config(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_broken_json(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match="config.json") as caught:
        load_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_broken_generation_config(tmp_path):
    write(tmp_path, LLAMA)
    (tmp_path / "generation_config.json").write_text("nonsense")
    with pytest.raises(CheckpointError, match="generation_config.json cannot be read"):
        load_config(tmp_path)
