"""Learns how much a tenant's requests will probably generate."""

from collections import OrderedDict
from collections.abc import Sequence

from cluster.domain.ids import TenantId
from cluster.domain.request import SamplingParams
from cluster.expected_length import ExpectedLength

MOST_TENANTS = 4096
MOST_NAMES = 256
"""Combinations of names of one tenant; what falls out is expected to be as its other answers."""
ANY_NAMES = ()


class ExpectedAnswers:
    """Learns from answers that came to their end, by tenant and by names asked for.

    Tokens are reserved before routing: a request that is refused must not be routed. A tenant's
    requests for other names begin with the mean of its own answers. They never begin with the mean
    of other tenants, since a reservation follows from it.
    """

    def __init__(self) -> None:
        self._tenants: OrderedDict[TenantId, ExpectedLength] = OrderedDict()

    def total(
        self,
        tenant: TenantId,
        asked: tuple[str, ...],
        samplings: Sequence[SamplingParams],
    ) -> int:
        """Return the tokens that these sequences will probably generate together."""
        return sum(self.one(tenant, asked, sampling) for sampling in samplings)

    def one(self, tenant: TenantId, asked: tuple[str, ...], sampling: SamplingParams) -> int:
        """Return the tokens that one sequence will probably generate."""
        if sampling.ignore_eos:
            return sampling.max_tokens
        lengths = self._tenants.get(tenant) or ExpectedLength()
        expected = lengths.expect(asked, sampling.max_tokens, like=ANY_NAMES)
        return max(expected, min(sampling.min_tokens, sampling.max_tokens))

    def observe(
        self,
        tenant: TenantId,
        asked: tuple[str, ...],
        sampling: SamplingParams,
        generated: int,
    ) -> None:
        """Learn from a sequence that came to its own end, or to its limit."""
        if sampling.ignore_eos:
            return
        lengths = self._tenants.pop(tenant, None) or ExpectedLength(MOST_NAMES)
        self._tenants[tenant] = lengths
        lengths.observe(asked, generated, sampling.max_tokens, like=ANY_NAMES)
        lengths.observe(ANY_NAMES, generated, sampling.max_tokens)
        if len(self._tenants) > MOST_TENANTS:
            self._tenants.popitem(last=False)
