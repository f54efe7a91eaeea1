"""Finds where in a prompt an activated LoRA (aLoRA, arXiv 2504.12397) begins to apply.

Such an adapter names the tokens that invoke it. It applies from the first token of their last
occurrence in the prompt on, and to all of the completion; before, and in a prompt without them, the
base computes. That is PEFT's rule for ``generate``: what is generated invokes nothing. An ordinary
adapter names none and applies from the first token on.
"""

from collections.abc import Iterable, Sequence


def active_from(prompt: Sequence[int], invocation: Sequence[int]) -> int | None:
    """Return the index of the first prompt token that an adapter applies to, or None.

    Args:
        prompt: token ids.
        invocation: the tokens that invoke it; empty for an ordinary adapter.
    """
    if not invocation:
        return 0
    wanted, first = tuple(invocation), invocation[0]
    for start in range(len(prompt) - len(wanted), -1, -1):
        if prompt[start] == first and tuple(prompt[start : start + len(wanted)]) == wanted:
            return start
    return None


def stretches(starts: Sequence[int | None]) -> list[tuple[int, tuple[int, ...]]]:
    """Cut a prompt where adapters begin to apply.

    Args:
        starts: `active_from` of each term of a mixture, in its order.

    Returns:
        (first token, places of the terms that apply) of each stretch, the first at token 0; the
        last one continues through the completion.
    """
    known = {start for start in starts if start is not None}
    return [(cut, _begun(starts, cut)) for cut in sorted({0} | known)]


def _begun(starts: Iterable[int | None], token: int) -> tuple[int, ...]:
    return tuple(i for i, start in enumerate(starts) if start is not None and start <= token)
