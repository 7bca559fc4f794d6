"""Four layers of Llama-3.1-8B's own shape: 64 tokens after a prompt of 300 are those of transformers in float32."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

import shmemtp

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]

PROMPT, TOKENS, LIMIT = 300, 64, 1e-2
CONFIG = dict(
    hidden_size=4096,
    num_hidden_layers=4,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=128256,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    tie_word_embeddings=False,
)


def write_checkpoint(folder):
    """Random weights, the same every time, at the scales at which such models are initialised."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**CONFIG)
    with torch.device("cuda"):  # in float32: a model cast to bf16 rounds its rotary frequencies too
        model = transformers.LlamaForCausalLM(config)
        for name, weight in model.named_parameters():
            mean, deviation = (1.0, 0.1) if "norm" in name else (0.0, 1.0 if "embed" in name else 0.02)
            values = weight.data.normal_(mean, deviation)
            weight.data.copy_(values.bfloat16())
    tensors = {name: weight.detach().bfloat16().cpu().contiguous() for name, weight in model.named_parameters()}
    save_file(tensors, str(folder / "model.safetensors"))
    settings = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(settings))
    return model


@pytest.fixture(scope="module")
def checkpoint(pe):
    """(folder, rank 0's model in float32): written once, read by all PEs of the node."""
    folder = Path(pe.comm.bcast(tempfile.mkdtemp() if pe.rank == 0 else None))
    model = write_checkpoint(folder) if pe.rank == 0 else None
    pe.barrier()
    yield folder, model
    pe.barrier()
    if pe.rank == 0:
        shutil.rmtree(folder)


def reference_logits(model, ids):
    """float32 [TOKENS, vocab]: what followed each prefix, teacher-forced on `ids`."""
    with torch.no_grad():
        logits = model(torch.tensor([ids], device="cuda")).logits[0]
    return logits[PROMPT - 1 : PROMPT - 1 + TOKENS].cpu().numpy()


def test_tokens_and_logits(pe, checkpoint, capsys):
    folder, model = checkpoint
    prompt = np.random.default_rng(1).integers(0, CONFIG["vocab_size"], PROMPT).tolist()
    llm = shmemtp.LLM(folder, pe, max_context=PROMPT + TOKENS, record_logits=TOKENS)
    runs = []
    for _ in range(2):
        tokens = llm.generate(prompt, max_new_tokens=TOKENS, stop_tokens=()).token_ids
        runs.append((tokens, llm.loop.logits()))
    assert runs[0][0] == runs[1][0] and np.array_equal(runs[0][1], runs[1][1])
    tokens = runs[0][0]
    assert pe.comm.allgather(tokens) == [tokens] * pe.size
    parts = pe.comm.gather(runs[0][1])
    if pe.rank:
        return
    ours = np.concatenate(parts, axis=1)[:, : CONFIG["vocab_size"]]
    theirs = reference_logits(model, prompt + tokens[:-1])
    errors = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    top = np.sort(theirs, axis=1)[:, -2:]
    decided = top[:, 1] - top[:, 0] > 2 * np.abs(ours - theirs).max(axis=1)
    with capsys.disabled():
        print(f"\nTP {pe.size}: worst relative error of {TOKENS} steps {errors.max():.1e}, decided {decided.sum()}")
    assert errors.max() < LIMIT
    assert decided.any()
    np.testing.assert_array_equal(np.array(tokens)[decided], theirs.argmax(axis=1)[decided])
