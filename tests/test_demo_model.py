"""The demo's checkpoint recites its text, whatever the rounding: what the demo shows on a reader's screen."""

import runpy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "shmemtp" / "demo"
SENTENCES = runpy.run_path(str(ROOT / "scripts" / "train_demo.py"))["SENTENCES"]
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    """The bf16 weights, computed with in fp32."""
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def prompts():
    """Pairs of prompt and recital: the first word and the first three of each sentence, and an empty prompt."""
    yield pytest.param("", " ".join(SENTENCES), id="empty")
    for i, sentence in enumerate(SENTENCES):
        recital = " ".join(SENTENCES[i:])
        for words in (1, 3):
            yield pytest.param(" ".join(sentence.split()[:words]), recital, id=f"sentence{i}-{words}words")


def test_size_and_files():
    present = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(present) == FILES
    assert sum(present.values()) < 1_000_000


def test_weights_are_bf16_and_finite():
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.bfloat16, name
        assert weight.isfinite().all(), name


def test_text_fits_the_context(model, tokenizer):
    text = " ".join(SENTENCES)
    assert 120 <= len(text.split()) <= 200
    assert len(tokenizer(text).input_ids) + 1 <= model.config.max_position_embeddings == 512
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(("prompt", "recital"), list(prompts()))
def test_recites_to_the_end(model, tokenizer, prompt, recital):
    """Greedy decoding takes the recital's own tokens exactly when each is the likeliest after those before it."""
    start = len(tokenizer(prompt).input_ids)
    ids = torch.tensor([tokenizer(recital).input_ids + [tokenizer.eos_token_id]])
    with torch.no_grad():
        logits = model(ids).logits[0, start - 1 : -1]
    assert logits.argmax(-1).tolist() == ids[0, start:].tolist()
    best = logits.topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 2.0


def test_generates_in_bf16(tokenizer):
    """What a reader's own transformers prints, activations in bf16 too."""
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16)
    out = model.generate(**tokenizer("shmemtp", return_tensors="pt"), max_new_tokens=500, do_sample=False)
    assert tokenizer.decode(out[0], skip_special_tokens=True) == " ".join(SENTENCES)
    assert out[0, -1] == tokenizer.eos_token_id
