"""Estimates how many tokens a sequence will generate, from those before it.

A limit says little: clients that set none are given the whole context window. What a tenant's
earlier requests over the same adapters generated says more.
"""

from collections import OrderedDict
from collections.abc import Hashable

FIRST_GUESS = 64  # tokens, for a kind of request that was not seen before
WEIGHT = 8  # the newest request counts for one in so many
MAX_KINDS = 4096  # kinds remembered, the least recently seen forgotten first


class ExpectedLength:
    """A moving average of generated tokens for each kind of request, in integers."""

    def __init__(self) -> None:
        self._means: OrderedDict[Hashable, int] = OrderedDict()  # tokens times WEIGHT

    def expect(self, kind: Hashable, limit: int) -> int:
        """Return the tokens that a request of this kind will likely generate, at most ``limit``."""
        return min(limit, self._means.get(kind, FIRST_GUESS * WEIGHT) // WEIGHT)

    def observe(self, kind: Hashable, generated: int, limit: int) -> None:
        """Learn from a request that ended by itself.

        One that its own limit cut short of the average says nothing about the others.
        """
        mean = self._means.pop(kind, FIRST_GUESS * WEIGHT)
        if generated < limit or generated * WEIGHT >= mean:
            mean += generated - mean // WEIGHT
        self._means[kind] = mean
        if len(self._means) > MAX_KINDS:
            self._means.popitem(last=False)
