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
    """A moving average of generated tokens for each kind of request, in integers.

    Args:
        most: kinds that are remembered.
    """

    def __init__(self, most: int = MAX_KINDS) -> None:
        self._most = most
        self._means: OrderedDict[Hashable, int] = OrderedDict()  # tokens times WEIGHT

    def expect(self, kind: Hashable, limit: int, *, like: Hashable = None) -> int:
        """Return the tokens that a request of this kind will likely generate, at most ``limit``.

        A kind that was not seen is expected to be as the kind ``like``.
        """
        mean = self._means.get(kind)
        if mean is None:
            mean = self._start(like)
        return min(limit, mean // WEIGHT)

    def observe(self, kind: Hashable, generated: int, limit: int, *, like: Hashable = None) -> None:
        """Learn from a request that ended by itself.

        One that its own limit cut short of the average says nothing about the others. A new kind
        begins with the average of the kind ``like``.
        """
        mean = self._means.pop(kind, None)
        if mean is None:
            mean = self._start(like)
        if generated < limit or generated * WEIGHT >= mean:
            mean += generated - mean // WEIGHT
        self._means[kind] = mean
        if len(self._means) > self._most:
            self._means.popitem(last=False)

    def _start(self, like: Hashable) -> int:
        return self._means.get(like, FIRST_GUESS * WEIGHT)
