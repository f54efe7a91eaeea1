"""Checks what a request's ``model`` and ``adapters`` lead to, and what its answer says about it.

The router ``words`` keeps the adapters whose names are words of the prompt, in equal parts; the
router ``fixed`` always has the same mixture.
"""

from typing import Any

import pytest

from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, COMPLETIONS, chat, completion, events
from tests.support.scripted_replica import Speech


async def weights(front: HttpFront, decision: str, key: str = "acme") -> dict[str, float]:
    """Read the weights of the mixture that is kept under a decision's id."""
    answer = await front.get(f"/v1/decisions/{decision}", key)
    assert answer.status_code == 200, answer.text
    return {term["name"]: term["weight"] for term in answer.json()["mixture"]}


@pytest.mark.parametrize("model", ["org/tiny", "tiny"])
async def test_the_base_answers_alone(front: HttpFront, model: str) -> None:
    answer = await front.post(CHAT, chat(model=model))
    assert answer.status_code == 200
    assert answer.json()["model"] == model
    assert answer.headers["x-braid-adapters"] == ""
    assert answer.headers["x-braid-decision-source"] == "explicit"


@pytest.mark.parametrize("model", ["sql", "tiny:sql", "org/tiny:sql"])
async def test_an_adapter_answers_alone(front: HttpFront, model: str) -> None:
    answer = await front.post(CHAT, chat(model=model))
    assert answer.status_code == 200
    header = answer.headers["x-braid-adapters"]
    assert header.startswith("sql@")
    assert header.endswith(";w=1")
    assert await weights(front, answer.headers["x-braid-decision"]) == {"sql": 1.0}


async def test_a_mixture_of_the_callers_own_weights(front: HttpFront) -> None:
    terms = [{"name": "sql", "weight": 0.75}, {"name": "json", "weight": -0.5}, {"name": "cron"}]
    answer = await front.post(CHAT, chat(adapters=terms))
    assert answer.status_code == 200, answer.text
    assert await weights(front, answer.headers["x-braid-decision"]) == {
        "cron": 1.0,
        "sql": 0.75,
        "json": -0.5,
    }


async def test_a_router_reads_the_prompt(front: HttpFront) -> None:
    answer = await front.post(COMPLETIONS, completion("sql and json", model="auto"))
    assert answer.headers["x-braid-decision-source"] == "computed"
    assert answer.headers["x-braid-decision-store"] == "written"
    assert answer.headers["x-braid-replica"] == "r0"
    assert await weights(front, answer.headers["x-braid-decision"]) == {"sql": 0.5, "json": 0.5}


async def test_a_router_reads_the_last_turn_of_a_chat(front: HttpFront) -> None:
    messages = [
        {"role": "system", "content": "json"},
        {"role": "user", "content": "cron"},
        {"role": "assistant", "content": "json"},
        {"role": "user", "content": "sql"},
    ]
    answer = await front.post(CHAT, chat(messages=messages, model="auto"))
    assert await weights(front, answer.headers["x-braid-decision"]) == {"sql": 1.0}


@pytest.mark.parametrize(
    ("model", "expected"),
    [("auto:fixed", {"sql": 0.5, "json": 0.25}), ("auto:words", {"cron": 1.0})],
)
async def test_a_router_is_asked_by_its_name(
    front: HttpFront, model: str, expected: dict[str, float]
) -> None:
    answer = await front.post(CHAT, chat("cron", model=model))
    assert await weights(front, answer.headers["x-braid-decision"]) == expected


async def test_the_same_prompt_is_not_routed_twice(front: HttpFront) -> None:
    first = await front.post(CHAT, chat("sql", model="auto"))
    second = await front.post(CHAT, chat("sql", model="auto"))
    assert second.headers["x-braid-decision"] == first.headers["x-braid-decision"]
    assert second.headers["x-braid-decision-source"] == "stored"
    assert second.headers["x-braid-decision-store"] == "hit"


async def test_another_tenant_has_a_decision_of_its_own(front: HttpFront) -> None:
    first = await front.post(CHAT, chat("sql json", model="auto"))
    second = await front.post(CHAT, chat("sql json", model="auto"), "globex")
    assert second.headers["x-braid-decision"] != first.headers["x-braid-decision"]
    id = second.headers["x-braid-decision"]
    assert await weights(front, id, "globex") == {"sql": 1.0}  # it may use no other


async def test_a_router_that_fails_leaves_the_base(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat("please fail", model="auto"))
    assert answer.status_code == 200
    assert answer.headers["x-braid-decision-source"] == "fallback"
    assert answer.headers["x-braid-decision-store"] == "skipped"
    assert answer.headers["x-braid-adapters"] == ""


async def test_a_stream_has_the_headers_of_its_decision(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat("sql", model="auto", stream=True))
    assert answer.headers["x-braid-adapters"].startswith("sql@")
    assert answer.headers["x-braid-decision-source"] == "computed"
    assert answer.headers["x-braid-replica"] == "r0"


@pytest.mark.parametrize("model", ["ghost", "tiny:ghost", "auto:ghost", "other/tiny", ""])
async def test_a_model_that_is_not_there_is_404(front: HttpFront, model: str) -> None:
    answer = await front.post(CHAT, chat(model=model))
    assert answer.status_code == 404, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")


async def test_an_adapter_without_a_right_to_it_is_not_there(front: HttpFront) -> None:
    seen = await front.post(CHAT, chat(model="json"), "globex")
    gone = await front.post(CHAT, chat(model="ghost"), "globex")
    assert seen.status_code == gone.status_code == 404
    assert seen.json()["error"]["message"] == gone.json()["error"]["message"].replace(
        "ghost", "json"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "sql", "adapters": [{"name": "json"}]}, "adapters"),
        ({"adapters": [{"name": "sql"}, {"name": "sql"}]}, "adapters[1].name"),
        ({"adapters": [{"name": "sql", "weight": 1e30}]}, "adapters[0].weight"),
    ],
    ids=str,
)
async def test_a_mixture_that_cannot_be_is_400(
    front: HttpFront, fields: dict[str, Any], param: str
) -> None:
    answer = await front.post(CHAT, chat(**fields))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


async def test_a_mixture_of_nothing_is_the_base(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(adapters=[]))
    assert answer.status_code == 200
    assert answer.headers["x-braid-adapters"] == ""


async def test_a_mixture_of_more_adapters_than_configured_is_400(open_front: OpenFront) -> None:
    async with open_front(adapters={"max_mixture": 1}, routers=[]) as front:
        answer = await front.post(CHAT, chat(adapters=[{"name": "sql"}, {"name": "json"}]))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "adapters"


async def test_a_mixture_of_an_adapter_that_is_not_there_is_404(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(adapters=[{"name": "sql"}, {"name": "ghost"}]))
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "adapters[1].name"


async def test_route_decides_and_generates_nothing(front: HttpFront) -> None:
    answer = await front.post("/v1/route", {"prompt": "sql or cron"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["object"], body["source"], body["store"]) == (
        "routing.decision",
        "computed",
        "written",
    )
    assert (body["router"], body["router_version"]) == ("words", "v1")
    assert {term["name"]: term["weight"] for term in body["mixture"]} == {"sql": 0.5, "cron": 0.5}
    assert {score["name"]: score["kept"] for score in body["scores"]} == {
        "(base)": False,
        "cron": True,
        "json": False,
        "sql": True,
    }
    assert "explain" not in body
    assert front.script.submitted == []


async def test_a_completion_has_the_decision_that_route_told_of(front: HttpFront) -> None:
    routed = await front.post("/v1/route", {"messages": chat("sql")["messages"]})
    answer = await front.post(CHAT, chat("sql", model="auto"))
    assert answer.headers["x-braid-decision"] == routed.json()["id"]
    assert answer.headers["x-braid-decision-source"] == "stored"


async def test_route_takes_a_mixture_and_an_adapter(front: HttpFront) -> None:
    body = {"prompt": "a", "model": "tiny", "adapters": [{"name": "sql", "weight": 2}]}
    answer = await front.post("/v1/route", body)
    assert answer.json()["mixture"][0]["weight"] == 2
    answer = await front.post("/v1/route", {"prompt": "a", "model": "cron"})
    assert answer.json()["mixture"][0]["name"] == "cron"


async def test_route_explains_every_candidate(front: HttpFront) -> None:
    answer = await front.post("/v1/route", {"prompt": "sql json", "explain": True})
    candidates = answer.json()["explain"]["candidates"]
    assert {one["name"]: one["weight"] for one in candidates} == {
        "(base)": 0.0,
        "cron": 0.0,
        "json": 0.5,
        "sql": 0.5,
    }


async def test_route_of_a_router_that_is_not_there_is_404(front: HttpFront) -> None:
    answer = await front.post("/v1/route", {"prompt": "a", "model": "auto:ghost"})
    assert answer.status_code == 404


async def test_a_decision_is_read_by_its_id(front: HttpFront) -> None:
    routed = (await front.post("/v1/route", {"prompt": "sql"})).json()
    found = (await front.get(f"/v1/decisions/{routed['id']}")).json()
    del routed["store"]
    assert found == routed


@pytest.mark.parametrize("id", ["dec_unknown", "x", "%2e%2e"])
async def test_a_decision_that_is_not_kept_is_404(front: HttpFront, id: str) -> None:
    answer = await front.get(f"/v1/decisions/{id}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "decision_not_found"


async def test_a_decision_of_another_tenant_is_not_there(front: HttpFront) -> None:
    routed = (await front.post("/v1/route", {"prompt": "sql"})).json()
    answer = await front.get(f"/v1/decisions/{routed['id']}", "globex")
    assert answer.status_code == 404


async def test_a_decision_is_forgotten_in_its_time(front: HttpFront) -> None:
    routed = (await front.post("/v1/route", {"prompt": "sql"})).json()
    front.clock.advance(routed["expires_at"] - routed["created_at"] + 1)
    assert (await front.get(f"/v1/decisions/{routed['id']}")).status_code == 404


async def test_an_answer_explains_its_mixture_where_asked(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat("sql json", model="auto", explain=True))
    explained = answer.json()["choices"][0]["explain"]
    assert explained["router"] == "words"
    kept = [one["name"] for one in explained["candidates"] if one["kept"]]
    assert sorted(kept) == ["json", "sql"]


async def test_a_stream_explains_in_its_last_chunk(front: HttpFront) -> None:
    front.says("Hi!")
    answer = await front.post(CHAT, chat("sql", model="auto", explain=True, stream=True))
    *chunks, _ = events(answer.text)
    explained = ["explain" in chunk["choices"][0] for chunk in chunks]
    assert explained == [False] * (len(chunks) - 1) + [True]


async def test_a_gate_tells_its_weights_token_by_token(front: HttpFront) -> None:
    front.says(Speech("ab", gate_weights=((0.25, 0.123456), (1.0, 0.0))))
    answer = await front.post(CHAT, chat("sql", model="auto", explain=True, max_tokens=2))
    explained = answer.json()["choices"][0]["explain"]
    assert explained["gate_weights"] == [[[0.25, 0.1235], [1.0, 0.0]]] * 2
    assert explained["adapters"] == ["", "cron", "json", "sql"]


async def test_an_answer_is_routed_again_at_each_sentence(front: HttpFront) -> None:
    front.says(Speech("Now cron. And more of it.", hold_after=11))
    body = completion("sql", model="auto:sentences", explain=True)

    async def go_on() -> None:
        await front.until(lambda: front.script.rerouted)
        front.script.go.set()

    async with front.beside(go_on()):
        answer = await front.post(COMPLETIONS, body)
    first, second = answer.json()["choices"][0]["explain"]["sentences"]
    assert (first["state"], first["tokens"], first["start"]) == ("applied", 0, 0)
    assert [term["name"] for term in first["mixture"]] == ["sql"]
    assert (second["state"], second["tokens"]) == ("applied", 11)
    assert second["start"] >= 11
    assert [term["name"] for term in second["mixture"]] == ["cron"]
    (asked,) = front.script.rerouted
    assert asked.after == second["start"]
    figures = await front.figures()
    assert figures['braid_reroutes_total{result="applied"}'] == 1


async def test_a_router_is_no_adapter_of_a_mixture(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(model="auto:words", adapters=[{"name": "sql"}]))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "adapters"
