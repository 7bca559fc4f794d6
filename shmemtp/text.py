"""Token ids to text while they come."""

from collections.abc import Sequence

__all__ = ["TextStream"]

LONGEST = 4  # bytes of a character, so tokens that may each hold a part of one
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text that each token adds to those before it, the prompt's included.

    A token's text depends on its neighbours: the space before a word is dropped where a text starts, and a character
    may take several tokens. So the newest tokens are decoded behind those whose text came last.
    """

    def __init__(self, tokenizer, prompt_ids: Sequence[int]):
        self._tokenizer = tokenizer
        self._follow(list(prompt_ids))

    def _follow(self, ids):
        self._before, self._newest = ids, []
        self._read = self._tokenizer.decode(ids)

    def add(self, token: int) -> str:
        """The text that `token` completes: "" while a character is incomplete."""
        self._newest.append(token)
        text = self._tokenizer.decode(self._before + self._newest)
        if text.endswith(INCOMPLETE) and len(self._newest) < LONGEST:
            return ""
        added = text[len(self._read) :]
        self._follow(self._newest)
        return added
