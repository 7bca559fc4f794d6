"""The persistent loop: one launch a request, tokens while it runs, every way in which a request ends."""

import itertools

import numpy as np
import pytest
from decoding import CONTEXT, PROMPT, assert_close, bits, checkpoint, decode, logits_of, model
from reference import Reference

import shmemtp
from shmemtp.device.backend import NAME
from shmemtp.errors import InputError, ShmemtpError

LONG = CONTEXT - len(PROMPT)  # more tokens than a test waits for


@pytest.fixture
def llm(pe):
    return model(pe, checkpoint(pe, "llama"), record_logits=12)


@pytest.fixture
def launches(pe, monkeypatch):
    """A list of the kernels that the device has launched in this test."""
    launched, launch = [], pe.device.launch
    monkeypatch.setattr(pe.device, "launch", lambda *args, **options: launched.append(args) or launch(*args, **options))
    return launched


def same_on_all(pe, value):
    assert pe.comm.allgather(value) == [value] * pe.size
    return value


def test_a_request_is_one_launch(llm, launches):
    before = llm.loop.launches
    decode(llm, PROMPT, 12)
    assert (len(launches), llm.loop.launches - before) == (1, 1)
    decode(llm, PROMPT[:1], 1)
    decode(llm, PROMPT, 100, temperature=1.0, top_p=0.9)
    assert (len(launches), llm.loop.launches - before) == (3, 3)


def test_tokens_are_read_while_the_kernel_runs(pe, llm):
    whole = decode(llm, PROMPT, 12)
    llm.loop.start(PROMPT, LONG)
    tokens = llm.loop.tokens()
    assert list(itertools.islice(tokens, 5)) == whole[:5]
    assert len(llm.loop.token_times) < LONG
    llm.loop.stop()
    rest = same_on_all(pe, list(tokens))
    assert whole[5:] == rest[:7] or len(rest) < 7
    assert same_on_all(pe, llm.loop.finish()) == "stopped"
    assert 5 <= 5 + len(rest) < LONG


def test_the_word_of_pe_0_stops_all(pe, llm):
    """Others' words count for nothing, so that no two PEs can read the host differently."""
    llm.loop.start(PROMPT, LONG)
    tokens = llm.loop.tokens()
    first = next(tokens)
    if pe.rank == 0:
        llm.loop.stop()
    same_on_all(pe, [first, *tokens])
    assert llm.loop.finish() == "stopped"

    llm.loop.start(PROMPT, 40)
    if pe.rank > 0:
        llm.loop.stop()
    assert len(list(llm.loop.tokens())) == 40
    assert llm.loop.finish() == "length"


def test_no_token_comes_after_the_last(pe, llm):
    whole = decode(llm, PROMPT, 12)
    for count in (1, 2, 7):
        generation = llm.generate(PROMPT, max_new_tokens=count, stop_tokens=())
        assert same_on_all(pe, generation.token_ids) == whole[:count]
        assert generation.stop_reason == "length"
        assert len(llm.loop.token_times) == count


def test_a_stop_token_ends_the_request(llm):
    whole = decode(llm, PROMPT, 12)
    for stop in (whole[0], whole[6]):
        generation = llm.generate(PROMPT, max_new_tokens=12, stop_tokens=[100, stop])
        assert generation.token_ids == whole[: whole.index(stop) + 1]
        assert generation.stop_reason == "stop_token"
    end = llm.generate(PROMPT, max_new_tokens=whole.index(stop) + 1, stop_tokens=[stop])
    assert (end.token_ids, end.stop_reason) == (whole[: whole.index(stop) + 1], "stop_token")


def test_the_models_own_end_of_sequence_ends_a_request(pe):
    """eos_token_id of config.json, one or a list, unless the caller has stop tokens of his own."""
    whole = decode(model(pe, checkpoint(pe, "llama"), record_logits=12), PROMPT, 12)
    llm = model(pe, checkpoint(pe, "with-eos", eos_token_id=(99, whole[3])), record_logits=12)
    generation = llm.generate(PROMPT, max_new_tokens=12)
    assert generation.token_ids == whole[: whole.index(whole[3]) + 1]
    assert generation.stop_reason == "stop_token"
    assert decode(llm, PROMPT, 12) == whole


def test_a_stop_ends_a_prompt_before_its_first_token(pe, llm):
    whole = decode(llm, PROMPT, 12)
    for _ in range(5):  # a kernel may be through its prompt before a busy host has said stop
        llm.loop.start([n % 100 for n in range(LONG)], 2)
        llm.loop.stop()
        answer = same_on_all(pe, list(llm.loop.tokens()))
        assert llm.loop.finish() == "stopped" or answer
        if not answer:
            break
    assert answer == []
    assert decode(llm, PROMPT, 12) == whole


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_a_later_request_goes_on_from_the_cache(pe, cut):
    """A prompt in two requests, fed token by token: the same tokens and the same bits as in one."""
    llm = model(pe, checkpoint(pe, "llama"), record_logits=12, prefill_tokens=1)
    whole, logits = decode(llm, PROMPT, 6), bits(logits_of(llm, 6))
    decode(llm, PROMPT[:cut], 1)
    llm.loop.start(PROMPT[cut:], 6, position=cut)
    assert same_on_all(pe, list(llm.loop.tokens())) == whole
    assert (bits(logits_of(llm, 6)) == logits).all()


def test_a_conversation(pe, llm):
    """Each turn follows the last one's answer, whose last token the cache does not have yet."""
    first = decode(llm, PROMPT, 5)
    llm.loop.start([first[-1], 7, 8, 9], 5, position=len(PROMPT) + 4)
    second = same_on_all(pe, list(llm.loop.tokens()))
    assert second == decode(llm, [*PROMPT, *first, 7, 8, 9], 5)


def test_leaving_a_stream_ends_its_request(pe, llm):
    whole = decode(llm, PROMPT, 12)
    taken = []
    for token in llm.stream(PROMPT, max_new_tokens=LONG, stop_tokens=()):
        taken.append(token.id)
        if len(taken) == 3:
            break
    assert taken == whole[:3]
    assert same_on_all(pe, len(llm.loop.token_times)) < LONG
    assert llm.loop.finish() == "stopped"
    assert decode(llm, PROMPT, 12) == whole


def test_a_stream_that_is_passes_ahead_when_the_context_is_full(pe):
    """What a feeder brings closer ends with the cache, though the ring has room for tokens that never come."""
    folder = checkpoint(pe, "one-kv-head", ratio=12, hidden_size=48, intermediate_size=16)
    threads = dict(multiprocessors=8, block=32, warp=1) if NAME == "emulator" else {}
    llm = model(pe, folder, max_context=32, prefill_tokens=1, **threads)
    assert len(decode(llm, PROMPT[:3], 29)) == 29


def test_more_tokens_than_fit_the_context_are_told(pe, caplog):
    llm = model(pe, checkpoint(pe, "llama"), max_context=len(PROMPT) + 3)
    with caplog.at_level("INFO", "shmemtp"):
        generation = llm.generate(PROMPT, max_new_tokens=50, stop_tokens=())
    assert len(generation.token_ids) == 3
    assert f"of 50 new tokens 3 fit the context of {len(PROMPT) + 3}" in caplog.text


def test_an_error_in_the_loop_of_a_stream_ends_its_request(pe, llm):
    with pytest.raises(KeyError):
        for _ in llm.stream(PROMPT, max_new_tokens=LONG, stop_tokens=()):
            raise KeyError("the caller's")
    assert llm.loop.finish() == "stopped"
    decode(llm, PROMPT, 2)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (dict(prompt_ids=[]), "the prompt is empty"),
        (dict(prompt_ids=[1, 101]), "token id 101 is outside the vocabulary of 101"),
        (dict(prompt_ids=[-1]), "token id -1 is outside the vocabulary of 101"),
        (dict(prompt_ids=[1], max_new_tokens=0), "max_new_tokens is 0"),
        (dict(prompt_ids=[1] * CONTEXT), "do not fit the context of"),
        (dict(prompt_ids=[1], position=CONTEXT - 1), "do not fit the context of"),
        (dict(prompt_ids=[1], position=-1), "position -1"),
        (dict(prompt_ids=[1], stop_tokens=[101]), "token id 101"),
        (dict(prompt_ids=[1], stop_tokens=range(17)), "at most 16"),
        (dict(prompt_ids=[1], temperature=-0.5), "temperature -0.5"),
        (dict(prompt_ids=[1], temperature=float("nan")), "temperature nan"),
        (dict(prompt_ids=[1], top_p=0.0), "top_p 0.0"),
    ],
)
def test_a_request_that_cannot_be(pe, llm, launches, request_, told):
    with pytest.raises(InputError, match=told):
        llm.loop.start(**{"max_new_tokens": 1, **request_})
    assert not launches
    decode(llm, PROMPT, 1)


def test_pes_that_ask_for_different_things(pe, llm, launches):
    if pe.size > 1:
        with pytest.raises(InputError, match="different requests"):
            llm.loop.start(PROMPT, 2, seed=pe.rank)
        assert not launches
        decode(llm, PROMPT, 1)


def test_one_request_at_a_time(llm):
    llm.loop.start(PROMPT, LONG)
    with pytest.raises(ShmemtpError, match="a request is running"):
        llm.loop.start(PROMPT, 1)
    llm.loop.stop()
    assert llm.loop.finish() == "stopped"


def test_teams_decode_side_by_side(pe):
    """Each half of the PEs a model and a request of its own, at the same time; of 3 PEs, two and one."""
    team = pe.split(pe.rank * 2 // pe.size)
    folder = checkpoint(pe, "llama")
    llm = shmemtp.LLM(folder, pe, team=team, max_context=CONTEXT, record_logits=12)
    prompt = PROMPT[team.pes[0] :]
    llm.loop.start(prompt, 12)
    pe.barrier()  # all kernels are launched
    tokens = list(llm.loop.tokens())
    assert llm.loop.finish() == "length"
    assert team.comm.allgather(tokens) == [tokens] * team.size
    assert_close(logits_of(llm, 12), Reference(folder).logits(prompt + tokens[:-1])[-12:], tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_whose_logits_are_no_numbers(pe, llm, temperature):
    """One line on every PE, no token, and the next request is served."""
    whole, norms = decode(llm, PROMPT, 12), llm.loop._model.norms
    kept = norms.numpy()
    norms.fill(np.full(norms.shape, np.nan, np.float32))
    with pytest.raises(ShmemtpError, match="no logit of token 1 is a number"):
        decode(llm, PROMPT, 12, temperature=temperature, top_p=0.9)
    norms.fill(kept)
    assert same_on_all(pe, decode(llm, PROMPT, 12)) == whole
