"""Lengths of answers that a front expects, by tenant."""

from cluster.domain.ids import TenantId
from cluster.domain.request import SamplingParams
from cluster.expected_length import FIRST_GUESS
from deployments.front.requests.expected_answers import MOST_NAMES, ExpectedAnswers

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
SAMPLING = SamplingParams(max_tokens=4000)


def learn(answers: ExpectedAnswers, tenant: TenantId, name: str, tokens: int, times: int) -> None:
    for _ in range(times):
        answers.observe(tenant, (name,), SAMPLING, tokens)


def test_one_tenants_answers_say_nothing_of_anothers() -> None:
    answers = ExpectedAnswers()
    learn(answers, ACME, "tiny", 2000, 200)
    assert answers.one(ACME, ("tiny",), SAMPLING) > 1900
    assert answers.one(GLOBEX, ("tiny",), SAMPLING) == FIRST_GUESS


def test_other_names_begin_with_the_mean_of_the_tenants_own_answers() -> None:
    answers = ExpectedAnswers()
    learn(answers, ACME, "sql", 1000, 200)
    assert answers.one(ACME, ("json",), SAMPLING) > 900
    learn(answers, ACME, "json", 1000, 1)
    assert answers.one(ACME, ("json",), SAMPLING) > 900


def test_a_tenant_with_many_names_makes_no_other_tenant_forgotten() -> None:
    answers = ExpectedAnswers()
    learn(answers, GLOBEX, "tiny", 2000, 200)
    for number in range(10_000):
        learn(answers, ACME, f"name-{number}", 10, 1)
    assert answers.one(GLOBEX, ("tiny",), SAMPLING) > 1900
    assert len(answers._tenants[ACME]._means) == MOST_NAMES
