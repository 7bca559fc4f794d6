"""A prompt fed several tokens at a time: fewer passes over the weights, and the same bits as one by one."""

import functools

import numpy as np
import pytest
from decoding import PROMPT, bits, checkpoint, decode, launch_options, logits_of, model

import shmemtp
from shmemtp.device.backend import NAME
from shmemtp.device.cache import GRANULE
from shmemtp.errors import InputError

STEPS = 3
MODELS = {"llama": ("llama", dict(ratio=3)), "qwen3": ("qwen3", dict(ratio=2, head_dim=24, tie_word_embeddings=True))}
LAUNCHES = [None, (3, 8, 4)] if NAME == "emulator" else [None]  # grid, block, warp
TOKENS = (2, 4, 8) if NAME == "emulator" else (4, 8)  # where each is a kernel of its own, compiled for half a minute


def fed(pe, name, tokens, launch):
    """The model that feeds its prompts `tokens` tokens at a time."""
    architecture, options = MODELS[name]
    folder = checkpoint(pe, name, architecture, **options)
    llm = model(pe, folder, record_logits=STEPS, prefill_tokens=tokens, **launch_options(launch))
    assert llm.plan.prefill.tokens == tokens
    return llm


@functools.cache
def one_by_one(pe, name, launch, length):
    """The tokens of the longest prompt of so many tokens, and their logits' bits."""
    llm = fed(pe, name, 1, launch)
    return decode(llm, PROMPT[:length], STEPS), bits(logits_of(llm, STEPS))


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: "x".join(map(str, launch)) if launch else "usual")
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_as_one_by_one(pe, name, tokens, launch):
    """Whatever is left over for the passes of one token."""
    llm = fed(pe, name, tokens, launch)
    for length in (1, tokens, tokens + 1, tokens + 4, 2 * tokens, len(PROMPT) - 1, len(PROMPT)):
        right, logits = one_by_one(pe, name, launch, length)
        assert decode(llm, PROMPT[:length], STEPS) == right
        np.testing.assert_array_equal(bits(logits_of(llm, STEPS)), logits)


@pytest.mark.parametrize("tokens", TOKENS)
def test_a_pass_reaches_into_the_next_part_of_the_context(pe, tokens):
    """Its first token is the last one of a granule: several parts own positions of the pass."""
    llm = fed(pe, "llama", tokens, LAUNCHES[-1])
    right, logits = one_by_one(pe, "llama", LAUNCHES[-1], len(PROMPT))
    cut = GRANULE - 1
    decode(llm, PROMPT[:cut], 1)
    llm.loop.start(PROMPT[cut:], STEPS, position=cut)
    assert list(llm.loop.tokens()) == right
    np.testing.assert_array_equal(bits(logits_of(llm, STEPS)), logits)


@pytest.mark.parametrize("tokens", TOKENS)
def test_fewer_passes(pe, tokens):
    """Tokens that make no whole group are fed with some of the group before again, unless they are but one or two."""
    llm = fed(pe, "llama", tokens, None)
    alone = {2: 1, 4: 1, 8: 2}[tokens]
    for length in (1, tokens, tokens + 1, tokens + 1 + alone, tokens + 2 + alone, 19, 20):
        before = llm.loop.passes
        decode(llm, PROMPT[:length], STEPS)
        groups, left = divmod(length - 1, tokens)
        if groups == 0:
            passes = left
        else:
            passes = groups + (1 if left > alone else left)
        assert llm.loop.passes - before == passes + STEPS


@pytest.mark.parametrize("tokens", TOKENS)
def test_by_put(pe, tokens):
    folder = checkpoint(pe, "llama", **MODELS["llama"][1])
    llm = model(pe, folder, record_logits=STEPS, prefill_tokens=tokens, algorithm="one-shot-put")
    right, logits = one_by_one(pe, "llama", None, len(PROMPT))
    assert decode(llm, PROMPT, STEPS) == right
    np.testing.assert_array_equal(bits(logits_of(llm, STEPS)), logits)


@pytest.mark.parametrize("tokens", [0, 9])
def test_no_pass_has_so_many(pe, tokens):
    folder = checkpoint(pe, "llama", **MODELS["llama"][1])
    with pytest.raises(InputError, match=f"prefill_tokens is {tokens}: it must be from 1 to 8"):
        shmemtp.LLM(folder, pe, prefill_tokens=tokens)


def test_plans_that_differ_are_told(pe):
    """Before anything is allocated: passes of other sizes would wait for each other in vain."""
    if pe.size == 1:
        pytest.skip("needs two PEs that can differ")
    folder = checkpoint(pe, "llama", **MODELS["llama"][1])
    with pytest.raises(InputError, match=r"different plans: .*2 tokens of a prompt at a time on PE 0, .*4 tokens"):
        shmemtp.LLM(folder, pe, max_context=64, prefill_tokens=2 if pe.rank == 0 else 4)
