"""Mixtures as data: their terms, the text that people write, the text that vLLM carries.

Nothing here imports vLLM.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

MOST_TERMS = 8
"""Most adapters of one mixture."""
SCHEME = "mixture:"
"""Begins the path of a LoRARequest that is a mixture."""

_SIMPLE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NEEDS_NO_ESCAPE = "@:/+~ "


@dataclass(frozen=True, slots=True)
class Term:
    """An adapter and its weight.

    Attributes:
        folder: its files, in PEFT's format; vLLM loads and drops such an adapter as it needs
            slots. None: the adapter was loaded by `load_adapter`, and stays until it is unloaded.
    """

    name: str
    weight: float
    folder: str | None = None


def make_terms(
    pairs: Sequence[tuple[str, float]], folders: Mapping[str, str] | None = None
) -> tuple[Term, ...]:
    """Check names and weights; returns them in the order of names.

    A sum does not depend on the order of its terms, but its rounding does: one order for all makes
    equal mixtures equal to the last bit.

    Raises:
        ValueError: no terms or too many, a name that is empty or stands twice, a weight that is not
            a finite number. The message names the term.
    """
    if not 1 <= len(pairs) <= MOST_TERMS:
        raise ValueError(
            f"a mixture has 1 to {MOST_TERMS} adapters, not {len(pairs)}; for the base model alone "
            "leave `lora_request` out"
        )
    seen: set[str] = set()
    for name, weight in pairs:
        if not isinstance(name, str) or not name:
            raise ValueError(f"an adapter's name must be a text that is not empty, not {name!r}")
        if name in seen:
            raise ValueError(f"adapter {name!r} stands twice in the mixture: add up its weights")
        seen.add(name)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"the weight of {name!r} must be a number, not {weight!r}")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of {name!r} must be finite, not {weight!r}")
    known = folders or {}
    return tuple(
        Term(name, float(weight) + 0.0, known.get(name))  # -0.0 becomes 0.0: one text for both
        for name, weight in sorted(pairs)
    )


def parse_text(text: str) -> tuple[tuple[str, float], ...] | None:
    """Read ``cron=0.4,json=-0.3``; a name alone has the weight 1. None if it is not such a text.

    Names are letters, digits, ``_``, ``.`` and ``-``, and do not begin with a dot or a dash, so
    that none leads out of a folder.
    """
    pairs: list[tuple[str, float]] = []
    for part in text.split(","):
        name, equals, number = part.partition("=")
        if not _SIMPLE_NAME.fullmatch(name):
            return None
        try:
            pairs.append((name, float(number) if equals else 1.0))
        except ValueError:
            return None
    return tuple(pairs)


def canonical_text(terms: Sequence[Term], stamps: Mapping[str, object] | None = None) -> str:
    """Return one text for equal mixtures, and different ones for different mixtures.

    Args:
        stamps: by name, what tells two adapters of one name apart: a folder, a count of loads.
    """
    known = stamps or {}
    parts = []
    for term in terms:
        stamp = f"#{quote(str(known[term.name]))}" if term.name in known else ""
        parts.append(f"{quote(term.name, safe=_NEEDS_NO_ESCAPE)}{stamp}={term.weight!r}")
    return ",".join(parts)


def encode(terms: Sequence[Term], cache_key: str | None) -> str:
    """Return the path of a LoRARequest that carries the mixture between vLLM's processes."""
    fields = [[term.name, term.weight, term.folder] for term in terms]
    return SCHEME + json.dumps([cache_key, fields], separators=(",", ":"))


def decode(path: str) -> tuple[tuple[Term, ...], str | None]:
    """Read what `encode` wrote: terms, and the key for the prefix cache.

    Raises:
        ValueError: it is not such a path.
    """
    try:
        cache_key, fields = json.loads(path.removeprefix(SCHEME))
        terms = make_terms(
            [(name, weight) for name, weight, _ in fields],
            {name: folder for name, _, folder in fields if folder is not None},
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"the path {path!r} does not describe a mixture: {error}") from error
    return terms, cache_key
