"""A front's way to the quota, over the quota that counts in memory."""

import asyncio

import pytest

from cluster.domain.ids import TenantId
from cluster.errors import RequestError
from cluster.expected_length import FIRST_GUESS
from cluster.tenancy.limits import QuotaLimits, QuotaSource, QuotaVerdict
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.tenants import Tenant
from deployments.front.http.problem import RefusedByQuota
from deployments.front.requests.admission import Admission
from tests.support.manual_clock import ManualClock


def tenant(**limits: int) -> Tenant:
    return Tenant(TenantId("acme"), frozenset(), limits=QuotaLimits(**limits))


class Door:
    """An admission whose requests are numbered."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.admission = Admission(MemoryQuota(self.clock, 660))
        self.count = 0

    async def admit(self, who: Tenant, sequences: int = 1, most: int = 2000) -> QuotaVerdict:
        self.count += 1
        return await self.admission.admit(
            who,
            f"r{self.count}",
            sequences=sequences,
            prompt_tokens=40,
            max_new_tokens=most * sequences,
        )


@pytest.fixture
def door() -> Door:
    return Door()


async def test_the_first_eight_chats_of_a_small_tenant_are_all_admitted(door: Door) -> None:
    """Their clients set no max_tokens, so each may fill the context."""
    verdicts = [await door.admit(tenant(tokens_per_minute=10_000)) for _ in range(8)]
    assert verdicts[-1].tokens is not None
    assert verdicts[-1].tokens.remaining == 10_000 - 8 * (40 + FIRST_GUESS)


async def test_a_small_answer_reserves_no_more_than_it_may_be(door: Door) -> None:
    verdict = await door.admit(tenant(tokens_per_minute=10_000), most=5)
    assert verdict.ask.expected == 45


async def test_more_sequences_than_may_ever_run_are_refused_by_name(door: Door) -> None:
    with pytest.raises(RequestError, match="makes 4 sequences, and tenant 'acme' may run 3") as no:
        await door.admit(tenant(max_concurrent=3), sequences=4)
    assert no.value.param == "n"
    assert (await door.admit(tenant(max_concurrent=3), sequences=3)).in_flight == 3


async def test_every_request_takes_one_unit_and_says_what_is_left(door: Door) -> None:
    who = tenant(requests_per_minute=2)
    for left in (1, 0):
        await door.admission.enter(who)
        verdict = await door.admit(who)
        assert verdict.headers()["x-ratelimit-remaining-requests"] == str(left)
        assert verdict.source is QuotaSource.UNLIMITED
    with pytest.raises(RefusedByQuota) as refused:
        await door.admission.enter(who)
    assert refused.value.headers["retry-after"] == "30"
    assert refused.value.headers["x-ratelimit-remaining-requests"] == "0"
    await door.admission.enter(tenant(max_concurrent=1))


async def test_a_settled_request_gives_back_what_it_did_not_use(door: Door) -> None:
    who = tenant(tokens_per_minute=1000, max_concurrent=1)
    verdict = await door.admit(who)
    with pytest.raises(RefusedByQuota):
        await door.admit(who)
    door.admission.settle(verdict, tokens=0)
    await asyncio.sleep(0)
    again = await door.admit(who)
    assert again.tokens is not None
    assert again.tokens.remaining == 1000 - 40 - FIRST_GUESS
    await door.admission.close()
