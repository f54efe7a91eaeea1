"""No history of requests, however they lie, takes a tenant further beyond its limit than stated."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.tenancy.limits import DEBT_MINUTES, FREE_SEQUENCES, QuotaAsk, QuotaLimits
from cluster.tenancy.quota import MemoryQuota
from tests.support.manual_clock import ManualClock

ACME = TenantId("acme")
ANSWER = 2000  # tokens, the longest of one sequence
SEQUENCES = 16  # of one request, at most
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("begin"),
            st.integers(1, SEQUENCES),
            st.tuples(st.integers(0, 300), st.integers(0, ANSWER)),
        ),
        st.tuples(st.just("end"), st.integers(0, 1000), st.floats(0, 1)),
        st.tuples(st.just("lie"), st.integers(0, 1000), st.just(1.0)),
        st.tuples(st.just("wait"), st.integers(0, 60_000), st.just(0)),
    ),
    max_size=80,
)


@given(limit=st.integers(1, 5000), expected=st.integers(0, ANSWER), steps=STEPS)
def test_used_and_still_to_be_used_stay_within_the_stated_bound(limit, expected, steps):
    clock = ManualClock()
    quota = MemoryQuota(clock, 1e9)
    limits = QuotaLimits(tokens_per_minute=limit)
    began = clock.wall()
    running = []
    used = largest = most_expected = 0
    for number, (kind, count, what) in enumerate(steps):
        if kind == "wait":
            clock.advance(count / 1000)
        elif kind == "begin":
            prompt, longest = what
            ask = QuotaAsk(
                count,
                prompt + count * min(expected, longest),
                prompt + count * longest,
            )
            verdict = quota.reserve_now(ACME, limits, str(number), ask)
            if verdict.allowed:
                running.append(verdict)
                largest = max(largest, ask.exposure)
                most_expected = max(most_expected, ask.expected)
        elif running:
            verdict = running.pop(count % len(running))
            tokens = round(what * verdict.ask.at_most)
            used += tokens
            quota.settle_now(verdict, tokens)
        worst = used + sum(verdict.ask.at_most for verdict in running)
        minutes = (clock.wall() - began) / 60
        ahead = max(DEBT_MINUTES * limit, FREE_SEQUENCES * ANSWER, largest)
        assert worst <= limit * (1 + minutes) + most_expected + ahead + 1e-3
    quota.check_integrity()
