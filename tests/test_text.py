"""Tokens to text while they come: spaces between words and characters of several tokens come out whole."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from shmemtp.text import TextStream

SENTENCE = "PEs put, signal and wait. Größe \N{SNOWMAN} \N{ROCKET}!"


def words_after_spaces():
    """As SentencePiece's: a word carries its space, which decoding drops at a text's start."""
    words = ["▁a", "▁ring", "▁of", "▁PEs", "s"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="s"))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def fallback_bytes():
    """As SentencePiece's for what its vocabulary lacks: a token for each byte."""
    tokenizer = Tokenizer(models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, []))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer, list(SENTENCE.encode())


def byte_level():
    """As Llama 3's and Qwen's, here with a token for each byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    return tokenizer, tokenizer.encode(SENTENCE).ids


def stream(tokenizer, prompt, ids):
    text = TextStream(tokenizer, prompt)
    return [text.add(token) for token in ids]


def test_a_word_after_the_prompt_keeps_its_space():
    assert stream(words_after_spaces(), [0, 1], [2, 3, 4]) == [" of", " PEs", "s"]
    assert stream(words_after_spaces(), [], [0, 1]) == ["a", " ring"]


@pytest.mark.parametrize("split", [0, 3, 20])
@pytest.mark.parametrize("kind", [fallback_bytes, byte_level])
def test_characters_of_several_tokens_come_whole(kind, split):
    tokenizer, ids = kind()
    added = stream(tokenizer, ids[:split], ids[split:])
    assert "".join(added) == SENTENCE[split:]
    assert [text for text in added if text] == list(SENTENCE[split:])


def test_bytes_that_are_no_character_hold_nothing_back():
    tokenizer, ids = byte_level()
    added = stream(tokenizer, [], [tokenizer.token_to_id("ÿ")] * 9 + ids)  # 0xFF, which UTF-8 never has
    assert any(added[:4])
    assert "".join(added).endswith(SENTENCE)


def test_a_long_text_is_the_same_as_decoded_at_once():
    ids = [n % 4 for n in range(100)]
    tokenizer = words_after_spaces()
    assert "".join(stream(tokenizer, [], ids)) == tokenizer.decode(ids)
