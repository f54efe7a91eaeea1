"""Text to feature ids by hashing: no vocabulary file, any language, bounded time."""

import re
import unicodedata
import zlib
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from cluster.config import Section

# Seeds keep the kinds of feature apart: a word and a pair of words never share a hash by joining.
_WORD_SEED = 0x57
_PAIR_SEED = 0x50
_GRAM_SEED = 0x47

_TOKEN = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")
_MAX_DIGITS = 4
_CHARS_PER_TOKEN = 16


class FeatureConfig(Section):
    """Settings that turn text into ids in ``[0, buckets)``."""

    buckets: Annotated[int, Field(ge=16)] = 30_000
    max_tokens: Annotated[int, Field(ge=4)] = 256
    """Longer texts keep their first quarter and their last three quarters of this many words:
    what is asked stands at one end or the other."""
    gram: Annotated[int, Field(ge=2)] = 4
    """Length of character n-grams."""


def tokenize(text: str, max_tokens: int) -> list[str]:
    """Split text into words, shapes of numbers, punctuation; case-folded and NFKC-normalised."""
    head, tail = max_tokens // 4, max_tokens - max_tokens // 4
    limit = max_tokens * _CHARS_PER_TOKEN
    shorter = [_normal(part) for part in _ends(text, limit)]
    # One character may become 18 others, so what was cut before is cut again.
    if len(shorter) == 1:
        parts = _ends(shorter[0], limit)
    else:
        parts = [shorter[0][: limit // 4], shorter[1][-(limit - limit // 4) :]]
    tokens = [_split(part) for part in parts]
    if len(tokens) == 1 and len(tokens[0]) <= max_tokens:
        return tokens[0]
    return tokens[0][:head] + tokens[-1][-tail:]


def feature_ids(text: str, config: FeatureConfig) -> list[int]:
    """Compute ids [T] of a text's features; at most a few thousand."""
    return token_features(tokenize(text, config.max_tokens), config)


def token_features(tokens: list[str], config: FeatureConfig) -> list[int]:
    """Compute ids of words, pairs of neighbouring words, and character n-grams of long words."""
    encoded = [token.encode() for token in tokens]
    buckets, gram = config.buckets, config.gram
    ids = [zlib.crc32(token, _WORD_SEED) % buckets for token in encoded]
    ids += [
        zlib.crc32(first + b" " + second, _PAIR_SEED) % buckets
        for first, second in pairwise(encoded)
    ]
    for token in tokens:
        if len(token) < gram or token[0] == "#":
            continue
        framed = f"<{token}>"
        ids += [
            zlib.crc32(framed[start : start + gram].encode(), _GRAM_SEED) % buckets
            for start in range(len(framed) - gram + 1)
        ]
    return ids


def _ends(text: str, limit: int) -> list[str]:
    """Keep the first quarter and the last three quarters of the allowed characters."""
    if len(text) <= limit:
        return [text]
    return [text[: limit // 4], text[-(limit - limit // 4) :]]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode()).casefold()


def _split(normal: str) -> list[str]:
    return [
        "#" * min(len(token), _MAX_DIGITS) if token[0].isdigit() else token
        for token in _TOKEN.findall(normal)
    ]
