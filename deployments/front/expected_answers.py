"""How much a tenant's requests will probably generate, learnt at the front."""

from collections.abc import Sequence

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.domain.request import SamplingParams
from cluster.engine.expected_length import ExpectedLength


class ExpectedAnswers:
    """Learns from answers that came to their end, by tenant and adapter set."""

    def __init__(self) -> None:
        self._lengths = ExpectedLength()

    def total(
        self,
        tenant: TenantId,
        adapters: tuple[AdapterDigest, ...],
        samplings: Sequence[SamplingParams],
    ) -> int:
        """Tokens that sequences with these parameters will probably generate together."""
        return sum(self._one(tenant, adapters, sampling) for sampling in samplings)

    def observe(
        self,
        tenant: TenantId,
        adapters: tuple[AdapterDigest, ...],
        sampling: SamplingParams,
        generated: int,
    ) -> None:
        """A sequence came to its own end, or to its limit."""
        if not sampling.ignore_eos:
            self._lengths.observe((tenant, adapters), generated, sampling.max_tokens)

    def _one(
        self, tenant: TenantId, adapters: tuple[AdapterDigest, ...], sampling: SamplingParams
    ) -> int:
        if sampling.ignore_eos:
            return sampling.max_tokens
        expected = self._lengths.expect((tenant, adapters), sampling.max_tokens)
        return max(expected, min(sampling.min_tokens, sampling.max_tokens))
