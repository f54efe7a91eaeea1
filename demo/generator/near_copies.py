"""Finding texts that nearly repeat one of a list, by the words that they share."""

import math
from collections import Counter
from collections.abc import Iterable

from router_service.routers.features import tokenize

SAME_WORDS = 0.75
"""Two texts are near copies where the words that both have are this share of all their words."""

_MIN_WORDS = 3
_MAX_TOKENS = 256


def text_words(text: str) -> frozenset[str]:
    """Split a text into words without case and punctuation; numbers by their length."""
    return frozenset(w for w in tokenize(text, _MAX_TOKENS) if w[0].isalnum() or w[0] == "#")


class NearCopies:
    """Finder of near copies of some texts; texts of fewer than three words have none."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._originals = [w for w in map(text_words, texts) if len(w) >= _MIN_WORDS]
        self._rarity = Counter(word for words in self._originals for word in words)
        self._with_word: dict[str, list[frozenset[str]]] = {}
        for words in self._originals:
            for word in words:
                self._with_word.setdefault(word, []).append(words)

    def of(self, text: str) -> bool:
        """Check if the text is a near copy of one of them."""
        words = text_words(text)
        # A text that shares enough words shares one of the rarest few.
        few = len(words) - math.ceil(SAME_WORDS * len(words)) + 1
        rarest = sorted(words, key=lambda word: (self._rarity[word], word))[:few]
        return any(
            len(words & original) >= SAME_WORDS * len(words | original)
            for word in rarest
            for original in self._with_word.get(word, ())
        )
