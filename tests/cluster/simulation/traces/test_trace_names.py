"""Every named trace can be made, is the same for the same seed, and refuses wrong parameters."""

import itertools
from collections import Counter

import pytest

from cluster.errors import ConfigError
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.trace_names import NAMED_TRACES, named_trace


def made(text: str, seed: int = 1, duration_s: float | None = 120.0) -> list[TraceRequest]:
    return list(named_trace(text, seed, duration_s))


@pytest.mark.parametrize("name", NAMED_TRACES)
def test_a_named_trace_is_sorted_sound_and_repeats_itself(name: str) -> None:
    found = made(name)
    assert found
    assert all(a.at <= b.at <= 120 for a, b in itertools.pairwise(found))
    for request in found:
        assert request.prompt_tokens >= 1
        assert 1 <= request.generated_tokens <= request.max_tokens
        assert request.adapters == tuple(sorted(set(request.adapters)))
        assert len(request.prefix) * 16 <= request.prompt_tokens
    assert found == made(name)
    assert found != made(name, seed=2)


def test_a_parameter_changes_only_what_it_names() -> None:
    plain, longer = made("constant"), made("constant,answer=99")
    assert [(r.at, r.adapters) for r in plain] == [(r.at, r.adapters) for r in longer]
    assert {r.generated_tokens for r in longer} == {99}


def test_the_duration_may_be_a_parameter() -> None:
    assert made("constant,duration=60", duration_s=None) == made("constant", duration_s=60)


def test_the_adversary_leaves_a_quiet_tenant_beside_it() -> None:
    found = made("adversary", duration_s=900.0)
    tenants = Counter(request.tenant for request in found)
    assert tenants.keys() == {"quiet-0", "loud-0"}
    assert tenants["loud-0"] > 10 * tenants["quiet-0"]
    loud = [request.adapters for request in found if request.tenant == "loud-0"]
    assert len(set(loud[:39])) == 39


def test_system_prompts_are_shared_within_a_tenant_alone() -> None:
    found = made("system-prompts")
    firsts = {(request.tenant, request.prefix[0]) for request in found}
    counts = Counter(first for _, first in firsts)
    assert max(counts.values()) == 1
    shared = Counter((request.tenant, request.prefix[0]) for request in found)
    assert sum(count for count in shared.values() if count > 1) / len(found) > 0.6


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("const", 'not known; did you mean "constant"'),
        ("", "not known; expected one of constant, bursty"),
        ("constant,rat=1", '"rat": no such parameter; did you mean "rate"'),
        ("constant,rate", 'expected key=value; did you mean "rate"'),
        ("constant,seed=1", "seed: not given here"),
        ("constant,rate=1,rate=2", "rate: given twice"),
        ("constant,rate=0", "rate=0: expected a number above 0"),
        ("constant,rate=inf", "rate=inf: expected a number"),
        ("constant,rate=nan", "rate=nan: expected a number"),
        ("constant,adapters=1.5", "adapters=1.5: expected a whole number of at least 1"),
        ("lasting,pairs=1.5", "pairs=1.5: expected a number of at least 0 and at most 1"),
        ("bursty,cv=50", "cv=50: expected a number of at least 0 and at most 20"),
        ("azure-hour,service=mail", "service=mail: expected one of code, conversation"),
    ],
)
def test_a_wrong_word_is_named(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        named_trace(text, 1)
    assert problem in caught.value.message


def test_a_duration_is_given_once_and_above_0() -> None:
    with pytest.raises(ConfigError, match="duration: given twice"):
        named_trace("constant,duration=5", 1, 5.0)
    with pytest.raises(ConfigError, match="duration=-5"):
        named_trace("constant", 1, -5.0)
