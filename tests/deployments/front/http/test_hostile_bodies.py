"""Bodies that are large, many, nested or wrong: answered shortly, and nothing runs for them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cluster.domain.ids import TenantId
from cluster.tenancy.quota import MemoryQuota
from tests.support.front_server import FrontServer, front_server
from tests.support.small_cluster import make_base

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, COMPLETIONS, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
USER = '"messages": [{"role": "user", "content": "x"}]'
EMPTY = '{"role":"user","content":""}'
GUIDED = {"model": "base", "prompt": "a", "max_tokens": 4}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FrontServer]:
    folder: Path = tmp_path_factory.mktemp("tiny")
    make_base(folder)
    async with front_server(folder) as server:
        yield server


def many(item: str, count: int) -> str:
    return ",".join([item] * count)


def keys(count: int) -> str:
    return ",".join(f'"a{n}":1' for n in range(count))


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("{}", 1_300_000)}]}}', 413, None),
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("{}", 20_000)}]}}', 400, "prompt"),
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("1", 2_000_000)}]}}', 413, None),
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("1", 260_000)}]}}', 400, "prompt"),
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("1", 260_000)},{{}}]}}', 400, "prompt"),
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("[1]", 10_000)}],"n":16}}', 400, "prompt"),
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("[1]", 9)}],"n":15}}', 400, "n"),
        (COMPLETIONS, f'{{"model":"base","prompt":[{many("[1]", 200)}]}}', 400, "prompt"),
        (COMPLETIONS, f'{{"model":"base","prompt":{"[" * 2_000_000}', 413, None),
        (COMPLETIONS, f'{{"model":"base","prompt":{"[" * 10_000}', 400, None),
        (COMPLETIONS, f'{{"model":"base","prompt":"{"a " * 1_900_000}"}}', 400, "prompt"),
        (COMPLETIONS, f'{{"model":"base","prompt":"{"," * 3_900_000}"}}', 400, "prompt"),
        (COMPLETIONS, '{"model":"base","prompt":"' + '\\"' * 1_900_000 + '"}', 400, "prompt"),
        (COMPLETIONS, f'{{"model":"base","prompt":"{"x" * 5_000_000}"}}', 413, None),
        (COMPLETIONS, f'{{"model":"{"m" * 3_000_000}","prompt":"a"}}', 400, "model"),
        (CHAT, f'{{"model":"base","messages":[{many("1", 2_000_000)}]}}', 413, None),
        (CHAT, f'{{"model":"base","messages":[{many("1", 30_000)}]}}', 400, "messages[0]"),
        (CHAT, f'{{"model":"base",{USER},{keys(340_000)}}}', 413, None),
        (CHAT, f'{{"model":"base",{USER},{keys(16_000)}}}', 400, "a0"),
        (CHAT, f'{{"model":"base",{USER},{keys(3)},"{"k" * 3_000_000}":1}}', 400, "a0"),
        (
            CHAT,
            f'{{"model":"base","messages":[{many(EMPTY, 120_000)}]}}',
            413,
            None,
        ),
        (
            CHAT,
            f'{{"model":"base","messages":[{many(EMPTY, 5_000)}]}}',
            400,
            "messages",
        ),
        (CHAT, f'{{"model":"base",{USER},"stop":[{many(chr(34) * 2, 200_000)}]}}', 400, "stop"),
        (CHAT, f'{{"model":"base",{USER},"stop":"{"s" * 1_000_000}"}}', 400, "stop"),
        (CHAT, f'{{"model":"base",{USER},"stop_token_ids":[{many("-1", 200_000)}]}}', 400, None),
        (CHAT, f'{{"model":"base",{USER},"logit_bias":{{{keys(16_000)}}}}}', 400, None),
        (CHAT, f'{{"model":"base",{USER},"tools":[{many("{}", 30_000)}]}}', 400, "tools"),
        (CHAT, f'{{"model":"base",{USER},"adapters":[{many("{}", 30_000)}]}}', 400, None),
        (CHAT, f'{{"model":"base",{USER},"user":"{"u" * 3_000_000}"}}', 400, "user"),
        (CHAT, f'{{"model":"base",{USER},"n":1e308}}', 400, "n"),
        (CHAT, f'{{"model":"base",{USER},"n":{"9" * 4_000_000}}}', 400, None),
        (CHAT, b'{"model":"base",\xff\xfe' * 1000, 400, None),
        (CHAT, b"\x00" * 4_000_000, 400, None),
        (CHAT, b"", 400, None),
        (ROUTE, f'{{"prompt":"{"a " * 1_900_000}"}}', 400, "prompt"),
        (ROUTE, f'{{"messages":[{many("{}", 30_000)}]}}', 400, "messages[0].role"),
        ("/v1/load_lora_adapter", f'{{"lora_name":"{"n" * 1_000_000}"}}', 400, "lora_name"),
    ],
)
async def test_it_is_refused_in_a_few_words(
    front: FrontServer, path: str, body: str | bytes, status: int, param: str | None
) -> None:
    routed = front.cluster.service.routing.counters.computations.total()
    kept = len(front.cluster.store._documents)
    answer = await front.post(path, body, key="root")
    assert answer.status == status
    if param is not None:
        assert answer.error["param"].startswith(param)
    assert len(answer.body) <= 8192
    assert front.cluster.service.routing.counters.computations.total() == routed
    assert len(front.cluster.store._documents) == kept


async def test_large_requests_that_are_right_are_answered(front: FrontServer) -> None:
    padding = "c" * 100_000
    body = {"model": "base", "prompt": "a", "max_tokens": 1, "user": "u"}
    assert (await front.post(COMPLETIONS, json.dumps(body) + " " * len(padding))).status == 200
    several = {"model": "base", "prompt": [[65]] * 16, "n": 8, "max_tokens": 1}
    answer = await front.post(COMPLETIONS, several)
    assert len(json.loads(answer.body)["choices"]) == 128


async def test_each_sequence_is_counted(front: FrontServer) -> None:
    body = {"model": "base", "prompt": "a", "max_tokens": 1, "n": 2}
    answer = await front.post(COMPLETIONS, body, key="one")
    assert (answer.status, answer.error["param"]) == (400, "n")
    assert (await front.post(COMPLETIONS, {**body, "n": 1}, key="one")).status == 200


async def test_the_rate_is_spent_before_the_body_is_read(front: FrontServer) -> None:
    """Also by routes, and by bodies that are refused."""
    assert (await front.post(ROUTE, {"prompt": "apples"}, key="rate")).status == 200
    assert (await front.post(COMPLETIONS, b"{", key="rate")).status == 400
    listed = await front.post("/v1/models", b"", key="rate", method="GET")
    assert listed.status == 200
    routed = front.cluster.service.routing.counters.sources.total()
    for path in (ROUTE, COMPLETIONS, CHAT, "/admin/v1/status"):
        method = "GET" if path.startswith("/admin") else "POST"
        answer = await front.post(path, b"{" * 100_000, key="rate", method=method)
        assert answer.status == 429
        assert answer.headers["retry-after"]
    assert front.cluster.service.routing.counters.sources.total() == routed


async def test_what_fails_after_its_admission_costs_nothing(front: FrontServer) -> None:
    answer = await front.post(COMPLETIONS, {"model": "nothing", "prompt": "a"}, key="one")
    assert answer.status == 404
    quota = front.cluster.service._admission._quota
    assert isinstance(quota, MemoryQuota)
    await asyncio.sleep(0)
    assert quota.in_flight(TenantId("one")) == 0
    quota.check_integrity()


async def test_failed_keys_of_an_address_are_bounded_and_lock_nobody_out(
    front: FrontServer,
) -> None:
    statuses = [(await front.post(CHAT, b"{}", key=f"no{n}")).status for n in range(40)]
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429
    assert (await front.post("/v1/models", b"", method="GET")).status == 200
    assert (await front.post("/admin/v1/status", b"", key="x", method="GET")).status == 429


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "((a{1,100}){1,100}){1,100}"},
        {"guided_grammar": "start: " + " ".join(["a?"] * 2000) + '\na: "x" | "y" a'},
    ],
)
async def test_a_grammar_that_grows_without_bound_is_refused(
    front: FrontServer, fields: dict[str, Any]
) -> None:
    answer = await front.post(COMPLETIONS, GUIDED | fields)
    assert (answer.status, answer.error["code"]) == (400, "grammar_too_complex")
    assert answer.error["param"] == next(iter(fields))


async def test_many_log_probabilities_of_several_sequences_are_refused(front: FrontServer) -> None:
    body = {"model": "base", "prompt": ["a" * 100] * 100, "max_tokens": 150, "logprobs": 20}
    answer = await front.post(COMPLETIONS, body)
    assert (answer.status, answer.error["param"]) == (400, "logprobs")


@pytest.mark.slow
async def test_others_are_answered_while_one_tenant_sends_its_worst(front: FrontServer) -> None:
    bodies = [
        f'{{"model":"base","prompt":[{many("1", 260_000)}]}}',
        f'{{"model":"base","prompt":"{"a " * 1_900_000}"}}',
        f'{{"model":"base","prompt":"{"é" * 1_000_000}"}}',
    ]
    attacks = [
        asyncio.create_task(front.post(COMPLETIONS, bodies[n % 3], key="one")) for n in range(24)
    ]
    answered = 0
    while not all(task.done() for task in attacks):
        body = {"model": "base", "prompt": "a", "max_tokens": 1}
        assert (await front.post(COMPLETIONS, body)).status == 200
        answered += 1
    assert answered > 3
    assert {(await task).status for task in attacks} == {400}
