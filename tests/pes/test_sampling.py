"""Sampled tokens: they repeat with their seed, and are distributed as the softmax or its nucleus is."""

import numpy as np
import pytest
from checkpoints import random_weights, save
from decoding import PROMPT, checkpoint, decode, launch_options, logits_of, model

from shmemtp.config import load_config
from shmemtp.device import kernel, thread_index, uint32
from shmemtp.device.backend import NAME
from shmemtp.device.philox import gumbel, philox

TEMPERATURE = 4.0
WIDE = (2, 4, 2) if NAME == "emulator" else (5, 256, 32)  # several warps and blocks add up the nucleus's mass
REFERENCE_NUMBERS = [  # Random123's kat_vectors for philox4x32-10: key, counter, the first of four words
    ((0, 0), (0, 0, 0, 0), 0x6627E8D5),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF,) * 4, 0x408F276D),
    ((0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0xD16CFE09),
]


def one_embedding(folder):
    """Rewrites the weights so that all tokens embed alike: then logits are the same at every position."""
    weights = random_weights(load_config(folder), seed=0)
    weights["model.embed_tokens.weight"][:] = weights["model.embed_tokens.weight"][0]
    save(folder / "model.safetensors", weights)


@pytest.fixture(params=[None, WIDE], ids=["usual", "wide"])
def die(request, pe):
    """A model that draws from one distribution at every step; on two launches."""
    folder = checkpoint(pe, "one-embedding", finish=one_embedding, num_hidden_layers=1)
    return model(pe, folder, record_logits=12, **launch_options(request.param))


def draws(die):
    """How many to test with: fewer where the emulator's threads take their time."""
    return 200 if NAME == "emulator" and die.plan.block > 1 else 1500


def distribution_of(die):
    """Collective: the softmax at TEMPERATURE of what the last request's steps had in common, float64 [vocab]."""
    logits = logits_of(die, 12).astype(np.float64)
    np.testing.assert_allclose(logits, np.broadcast_to(logits[0], logits.shape), atol=1e-2)
    weights = np.exp((logits[0] - logits[0].max()) / TEMPERATURE)
    return weights / weights.sum()


def assert_drawn_from(tokens, probabilities):
    """Pearson's chi-squared test, which right tokens fail once in 10,000 sequences (Wilson & Hilferty's quantile)."""
    assert set(tokens) <= set(np.flatnonzero(probabilities))
    expected = probabilities * len(tokens)
    counts = np.bincount(tokens, minlength=len(probabilities))
    many = expected >= 5
    expected = np.append(expected[many], expected[~many].sum())
    counts = np.append(counts[many], counts[~many].sum())
    expected, counts = (expected, counts) if expected[-1] >= 5 else (expected[:-1], counts[:-1])
    freedom = len(expected) - 1
    assert freedom >= 4, "too few likely tokens for a test"
    limit = freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < limit


def test_a_seed_repeats_its_tokens_on_every_pe(pe):
    llm = model(pe, checkpoint(pe, "llama"), record_logits=12)
    first = decode(llm, PROMPT, 24, temperature=TEMPERATURE, seed=7)  # which compares the PEs
    decode(llm, PROMPT[:3], 2)
    assert decode(llm, PROMPT, 24, temperature=TEMPERATURE, seed=7) == first
    others = [decode(llm, PROMPT, 24, temperature=TEMPERATURE, seed=seed) for seed in (8, 7 + (1 << 32), 1 << 63)]
    assert len({tuple(tokens) for tokens in (first, *others)}) == 4


def test_temperature_draws_from_the_softmax(die):
    tokens = decode(die, [0], draws(die), temperature=TEMPERATURE)
    assert_drawn_from(tokens, distribution_of(die))


def test_seeds_draw_from_the_softmax(pe):
    """Each request's one token, over many seeds: the same distribution as one seed's many tokens."""
    die = model(pe, checkpoint(pe, "one-embedding", finish=one_embedding, num_hidden_layers=1), record_logits=12)
    decode(die, [0], 12)
    probabilities = distribution_of(die)
    tokens = [decode(die, [0], 1, temperature=TEMPERATURE, seed=seed)[0] for seed in range(200)]
    assert_drawn_from(tokens, probabilities)


@pytest.mark.parametrize("mass", [0.5, 0.9])
def test_top_p_draws_from_the_nucleus(die, mass):
    decode(die, [0], 12)
    probabilities = distribution_of(die)
    order = np.argsort(-probabilities)
    totals = probabilities[order].cumsum()
    last = int(np.searchsorted(totals, mass))
    top_p = (totals[last] + (totals[last - 1] if last else 0)) / 2  # far from where one token more or less would count
    nucleus = np.zeros_like(probabilities)
    nucleus[order[: last + 1]] = probabilities[order[: last + 1]] / totals[last]
    assert_drawn_from(decode(die, [0], draws(die), temperature=TEMPERATURE, top_p=float(top_p), seed=1), nucleus)


@pytest.mark.parametrize("options", [dict(temperature=1.5, top_p=1e-6), dict(temperature=1e-4)])
def test_nothing_left_to_chance_is_greedy(pe, options):
    llm = model(pe, checkpoint(pe, "llama"), record_logits=12)
    assert decode(llm, PROMPT, 24, seed=5, **options) == decode(llm, PROMPT, 24)


@kernel
def draw_numbers(keys, counters, words):
    for i in range(words.size):
        if thread_index() == 0:
            c = 4 * i
            counter = counters[c], counters[c + 1], counters[c + 2], counters[c + 3]
            words[i] = philox(keys[2 * i], keys[2 * i + 1], counter[0], counter[1], counter[2], counter[3])


def test_random_numbers_are_philox(run, device):
    keys, counters, right = (np.array(column, np.int64) for column in zip(*REFERENCE_NUMBERS, strict=True))
    arrays = [device.array(values.size, np.int64) for values in (keys, counters)]
    for array, values in zip(arrays, (keys, counters), strict=True):
        array.fill(values.reshape(-1))
    words = device.array(len(right), np.uint32)
    run(draw_numbers, (1, 32, 32) if NAME == "gpu" else (1, 1, 1), *arrays, words)
    assert words.numpy().tolist() == right.tolist()


@kernel
def gumbels(bits, values):
    if thread_index() == 0:
        for i in range(bits.size):
            values[i] = gumbel(uint32(bits[i]))


def test_gumbel_noise_is_finite(run, device):
    """From the first word to the last, none of which may outweigh every logit; and -log(-log(u)) between."""
    words = np.array([0, 1, 255, 256, 1 << 20, 1 << 31, (1 << 32) - 512, (1 << 32) - 256, (1 << 32) - 1], np.uint32)
    bits, values = device.array(words.size, np.uint32), device.array(words.size, np.float32)
    bits.fill(words)
    run(gumbels, (1, 32, 32) if NAME == "gpu" else (1, 1, 1), bits, values)
    found = values.numpy()
    assert np.isfinite(found).all(), found
    assert (np.diff(found) >= 0).all()
    middle = slice(3, 6)
    uniform = (words[middle].astype(np.float64) + 0.5) / 2.0**32
    np.testing.assert_allclose(found[middle], -np.log(-np.log(uniform)), atol=1e-3)
