"""Learns how much a tenant's requests will probably generate."""

from collections.abc import Sequence

from cluster.domain.ids import TenantId
from cluster.domain.request import SamplingParams
from cluster.expected_length import ExpectedLength


class ExpectedAnswers:
    """Learns from answers that came to their end, by tenant and by names asked for.

    Tokens are reserved before routing: a request that is refused must not be routed.
    """

    def __init__(self) -> None:
        self._lengths = ExpectedLength()

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
        expected = self._lengths.expect((tenant, asked), sampling.max_tokens)
        return max(expected, min(sampling.min_tokens, sampling.max_tokens))

    def observe(
        self,
        tenant: TenantId,
        asked: tuple[str, ...],
        sampling: SamplingParams,
        generated: int,
    ) -> None:
        """Learn from a sequence that came to its own end, or to its limit."""
        if not sampling.ignore_eos:
            self._lengths.observe((tenant, asked), generated, sampling.max_tokens)
