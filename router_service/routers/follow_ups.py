"""Turns of a conversation that continue the turn before: "now only those from Berlin".

A router may have learned it, if its last training had such turns; the rule here serves the other
routers. Either way it is a function of the turns' texts alone.
"""

from collections.abc import Iterable, Sequence

from router_service.routers.features import tokenize

RULE_SHARE = 0.8
"""Share of a turn's decision that is the turn before's, if the rule takes it for a follow-up."""

_NEGLIGIBLE = 1e-3
_MAX_WORDS = 12
_OPENERS = frozenset((
    "and", "but", "or", "now", "only", "also", "then", "except", "without", "exclude", "include",
    "instead", "again", "same", "make", "und", "nur", "jetzt", "auch", "aber", "ohne", "y", "pero",
    "solo", "ahora", "también", "sin", "et", "mais", "seulement", "aussi", "sans", "ma", "anche",
))  # fmt: skip
_REFERENCES = frozenset((
    "them", "those", "these", "that", "one", "ones", "same", "instead", "again", "too", "each",
    "others", "both", "davon", "diese", "ellos", "esos", "esas", "mismo", "ceux", "celles",
))  # fmt: skip


def looks_like_follow_up(text: str) -> bool:
    """Check by rule: a short turn that opens with a connective or refers to something before."""
    words = [word for word in tokenize(text, 2 * _MAX_WORDS) if word[0].isalnum() or word[0] == "#"]
    if not words or len(words) > _MAX_WORDS:
        return False
    if words[0] in ("what", "how"):
        return len(words) > 2 and words[1] in ("about", "if")
    if words[0] in _OPENERS:
        return True
    return len(words) <= _MAX_WORDS // 2 and not _REFERENCES.isdisjoint(words)


def carry_over(
    turns: Iterable[tuple[Sequence[float], float]], base: int, carry: float
) -> list[float]:
    """Compute the newest turn's probabilities, with what it takes over from the turns before it.

    With p_i a turn's own probabilities and c_i the probability that it continues the turn before,
    which sum to 1: q_i = p_i + c_i (carry q_{i-1} + (1 - carry) base). Before the first turn there
    is only the base. Turns that count for nothing are not asked for.

    Args:
        turns: (p_i, c_i), the newest first; one or more.
        base: index of the base.
        carry: share of the turn before.
    """
    q: list[float] = []
    left = 1.0
    for own, continues in turns:
        if q:
            q[base] += left * (1 - carry)
            left *= carry
        else:
            q = [0.0] * len(own)
        for index, probability in enumerate(own):
            q[index] += left * probability
        left *= continues
        if left < _NEGLIGIBLE:
            break
    q[base] += left
    return q
