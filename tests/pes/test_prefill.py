"""A prompt fed many tokens at a time: fewer passes over the weights, and the logits that one by one gives."""

import numpy as np
import pytest
from decoding import TOLERANCE, assert_close, bits, checkpoint, decode, launch_options, logits_of, model
from reference import Reference

import shmemtp
from shmemtp.device.backend import NAME
from shmemtp.device.cache import GRANULE
from shmemtp.errors import InputError

STEPS = 3
PROMPT = np.random.default_rng(3).integers(0, 96, 100).tolist()
MODELS = {"llama": ("llama", dict(ratio=3)), "qwen3": ("qwen3", dict(ratio=2, head_dim=24, tie_word_embeddings=True))}
TOKENS = (16, 32)
LAUNCH = (3, 8, 4) if NAME == "emulator" else None  # grid, block, warp; None: the usual one
CASES = [("llama", 48, None), ("qwen3", 32, None)]
if NAME == "emulator":
    CASES += [("qwen3", 16, LAUNCH), ("llama", 64, LAUNCH), ("llama", 32, (1, 16, 16))]


def fed(pe, name, tokens, launch=None, **options):
    """The model that feeds its prompts `tokens` tokens at a time."""
    architecture, sizes = MODELS[name]
    folder = checkpoint(pe, name, architecture, **sizes)
    llm = model(pe, folder, record_logits=STEPS, prefill_tokens=tokens, **launch_options(launch), **options)
    assert llm.plan.prompt.tokens == (tokens if tokens > 1 else 0)
    return llm, folder


@pytest.mark.parametrize(
    ("name", "tokens", "launch"), CASES, ids=lambda each: "x".join(map(str, each)) if isinstance(each, tuple) else None
)
def test_logits_are_right(pe, name, tokens, launch):
    """Of whole passes, of passes that are not full, and where a token is left that is fed alone."""
    llm, folder = fed(pe, name, tokens, launch)
    few = (1, 2, 3, tokens, tokens + 1, tokens + 3) if launch is None else ()  # a launch of many threads takes long
    for length in (*few, tokens + 2, len(PROMPT)):
        chosen = decode(llm, PROMPT[:length], STEPS)
        right = Reference(folder).logits(PROMPT[:length] + chosen[:-1])[-STEPS:]
        assert_close(logits_of(llm, STEPS), right, chosen)


def test_a_long_prompt(pe):
    """Its context is cut into parts, some of which a row cannot see, with more tiles than a block holds at a time."""
    folder = checkpoint(pe, "one-kv-head", ratio=12)
    launch = (2, 32, 1) if NAME == "emulator" else None
    llm = model(pe, folder, record_logits=STEPS, prefill_tokens=16, **launch_options(launch))
    prompt = np.random.default_rng(7).integers(0, 96, 450).tolist()
    if launch is not None:
        assert llm.plan.shape.group * 16 <= llm.plan.prompt.band and 450 > 2 * 32 * llm.plan.prompt.tiles
    chosen = decode(llm, prompt, STEPS)
    assert_close(logits_of(llm, STEPS), Reference(folder).logits(prompt + chosen[:-1])[-STEPS:], chosen)


def test_blocks_that_share_their_rows(pe):
    """Each has half of a pass's tokens; of few tokens one has none."""
    launch, tokens = ((6, 1, 1), 64) if NAME == "emulator" else (None, 256)
    llm, folder = fed(pe, "llama", tokens, launch)
    assert llm.plan.prompt.sharing == 2
    prompt = np.random.default_rng(9).integers(0, 96, 300).tolist()
    for length in (5, tokens // 2 + 3, len(prompt)):
        chosen = decode(llm, prompt[:length], STEPS)
        right = Reference(folder).logits(prompt[:length] + chosen[:-1])[-STEPS:]
        assert_close(logits_of(llm, STEPS), right, chosen)


def test_blocks_without_a_row_of_a_product(pe):
    folder = checkpoint(pe, "narrow", hidden_size=64, intermediate_size=8)
    llm = model(pe, folder, record_logits=STEPS, prefill_tokens=16, multiprocessors=8)
    gate_up = llm.plan.layout.gate_up
    assert llm.plan.grid == 8 and gate_up.tiles <= 4 * gate_up.tiles_per_block
    for _ in range(3):
        chosen = decode(llm, PROMPT, STEPS)
    assert_close(logits_of(llm, STEPS), Reference(folder).logits(PROMPT + chosen[:-1])[-STEPS:], chosen)


@pytest.mark.parametrize("tokens", TOKENS)
def test_runs_are_bitwise_equal(pe, tokens):
    llm, _ = fed(pe, "llama", tokens, LAUNCH)
    runs = []
    for before in (5, 40, 18):
        decode(llm, PROMPT[:before], 1)
        decode(llm, PROMPT, STEPS)
        runs.append(bits(logits_of(llm, STEPS)))
    np.testing.assert_array_equal(runs[1], runs[0])
    np.testing.assert_array_equal(runs[2], runs[0])


@pytest.mark.parametrize("cut", [1, 15, 16, 50])
def test_a_prompt_behind_another_one(pe, cut):
    """Its keys and values join those in the cache, whatever pass wrote them."""
    llm, folder = fed(pe, "llama", TOKENS[-1], LAUNCH)
    decode(llm, PROMPT[:cut], 1)
    llm.loop.start(PROMPT[cut:], STEPS, position=cut)
    chosen = list(llm.loop.tokens())
    assert_close(logits_of(llm, STEPS), Reference(folder).logits(PROMPT + chosen[:-1])[-STEPS:], chosen)


@pytest.mark.parametrize("length", [1, 14, 33])
def test_what_an_overflow_left_in_the_cache(pe, length):
    """Attention loads whole granules and tiles: values behind the context have a weight of 0, and must be numbers."""
    llm, folder = fed(pe, "llama", TOKENS[-1])
    values = llm.loop._model.values
    values.fill(np.full(values.shape, 0x7FC0, np.uint16))
    chosen = decode(llm, PROMPT[:length], STEPS)
    right = Reference(folder).logits(PROMPT[:length] + chosen[:-1])[-STEPS:]
    assert_close(logits_of(llm, STEPS), right, chosen)


@pytest.mark.parametrize("cut", [5, 20])  # in each granule of a page
def test_what_an_overflow_left_behind_the_start_of_a_request(pe, cut):
    """Without a prompt's pass, which clears what is behind it."""
    folder = checkpoint(pe, "llama", **MODELS["llama"][1])
    llm = model(pe, folder, record_logits=STEPS, prefill_tokens=1)
    decode(llm, PROMPT[:cut], 1)
    shape, values = llm.plan.shape, llm.loop._model.values
    found = values.numpy().reshape(shape.layers * shape.kv_heads, -1, llm.plan.memory.granule_elements)
    n, d = np.meshgrid(range(GRANULE), range(shape.head_dim))
    places = d // 16 * 256 + d // 2 % 8 * 32 + n // 2 % 4 * 8 + n // 8 * 4 + d % 2 * 2 + n % 2  # value_place
    for granule in range(found.shape[1]):
        found[:, granule, places[GRANULE * granule + n >= cut]] = 0x7FC0
    values.fill(found.reshape(-1))
    llm.loop.start(PROMPT[cut : cut + 1], STEPS, position=cut)
    chosen = list(llm.loop.tokens())
    right = Reference(folder).logits(PROMPT[: cut + 1] + chosen[:-1])[-STEPS:]
    assert_close(logits_of(llm, STEPS), right, chosen)


@pytest.mark.parametrize("tokens", TOKENS)
def test_fewer_passes(pe, tokens):
    """One token that is left over is fed like those that are generated."""
    llm, _ = fed(pe, "llama", tokens)
    for length in (1, 2, 3, tokens + 1, tokens + 2, tokens + 3, len(PROMPT)):
        before = llm.loop.passes
        decode(llm, PROMPT[:length], STEPS)
        groups, left = divmod(length - 1, tokens)
        assert llm.loop.passes - before == groups + (left > 0) + STEPS


@pytest.mark.parametrize("tokens", TOKENS)
def test_by_put(pe, tokens):
    """put_signal brings the same bits as packets."""
    logits = []
    for algorithm in ("one-shot", "one-shot-put"):
        llm, _ = fed(pe, "llama", tokens, algorithm=algorithm)
        decode(llm, PROMPT, STEPS)
        logits.append(bits(logits_of(llm, STEPS)))
    np.testing.assert_array_equal(*logits)


def test_it_matters_little_how_many_go_together(pe):
    """A pass rounds its inputs once more than a token alone does."""
    logits = []
    for tokens in (1, *TOKENS):
        llm, _ = fed(pe, "qwen3", tokens)
        decode(llm, PROMPT, 1)
        logits.append(logits_of(llm, 1))
    for other in logits[1:]:
        assert np.linalg.norm(other - logits[0]) < TOLERANCE * np.linalg.norm(logits[0])


@pytest.mark.parametrize("tokens", [0, 8, 272])
def test_no_pass_has_so_many(pe, tokens):
    folder = checkpoint(pe, "llama", **MODELS["llama"][1])
    with pytest.raises(InputError, match=f"prefill_tokens is {tokens}: it must be 1 or a multiple of 16 up to 256"):
        shmemtp.LLM(folder, pe, prefill_tokens=tokens)


def test_plans_that_differ_are_told(pe):
    """Before anything is allocated: passes of other sizes would wait for each other in vain."""
    if pe.size == 1:
        pytest.skip("needs two PEs that can differ")
    folder = checkpoint(pe, "llama", **MODELS["llama"][1])
    with pytest.raises(InputError, match=r"different plans: .*16 tokens of a prompt at a time on PE 0, .*32 tokens"):
        shmemtp.LLM(folder, pe, max_context=64, prefill_tokens=16 if pe.rank == 0 else 32)
