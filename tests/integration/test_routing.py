"""A routed prompt's decision: computed once, stored signed, reused, and guarded."""

import time

import msgspec
import pytest
import redis

from testing.local_cluster import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]


def fresh(text: str) -> str:
    """Return a prompt that no earlier run has asked."""
    return f"{text} ({time.time_ns()})"


def test_computed_then_stored(cluster: LocalCluster) -> None:
    prompt = fresh("Show the names of all customers from Paris")
    before = cluster.metric("braid_router_computations_total", router="dlp")
    first = cluster.complete("acme", "auto", prompt)
    second = cluster.complete("acme", "auto:dlp", prompt)
    assert first.headers["x-braid-decision-source"] == "computed"
    assert second.headers["x-braid-decision-source"] == "stored"
    assert first.headers["x-braid-decision"] == second.headers["x-braid-decision"]
    assert first.json()["choices"] == second.json()["choices"]
    assert cluster.metric("braid_router_computations_total", router="dlp") == before + 1


def test_the_decision_is_in_redis_with_a_ttl_and_without_the_prompt(cluster: LocalCluster) -> None:
    prompt = fresh("every five minutes on weekdays")
    decision = cluster.complete("acme", "auto", prompt).headers["x-braid-decision"]
    with redis.Redis.from_url(cluster.redis_url) as store:
        (key,) = [name for name in store.scan_iter("braid:*") if decision.encode() in name]
        assert b"acme" in key
        assert 0 < store.ttl(key) <= 3600
        assert prompt.encode() not in store.get(key)
    shown = cluster.get(f"/v1/decisions/{decision}", "acme").json()
    assert shown["id"] == decision
    assert cluster.get(f"/v1/decisions/{decision}", "globex").status_code == 404


def test_mixtures_follow_the_skill_and_the_rights(cluster: LocalCluster) -> None:
    def leader(tenant: str, prompt: str) -> str:
        answer = cluster.post("/v1/route", tenant, {"prompt": prompt}).json()
        mixture = answer["mixture"]
        return mixture[0]["name"] if mixture else "(base)"

    assert leader("acme", "Count the orders placed by each customer in the orders table") == "sql"
    assert leader("acme", "Run the backup every Monday at 6 in the morning") == "cron"
    assert leader("globex", "My invoice was charged twice and I need a refund now!") == "tickets"
    assert leader("acme", "My invoice was charged twice and I need a refund now!") == "(base)"


def test_a_tampered_decision_is_detected_and_replaced(cluster: LocalCluster) -> None:
    prompt = fresh("Delete all orders older than a year")
    first = cluster.complete("acme", "auto", prompt)
    decision = first.headers["x-braid-decision"]
    before = cluster.metric("braid_decision_store_total", result="tampered")
    with redis.Redis.from_url(cluster.redis_url) as store:
        (key,) = [name for name in store.scan_iter("braid:*") if decision.encode() in name]
        honest = store.get(key)
        document = msgspec.json.decode(honest)
        document["decision"]["mixture"] = []
        store.set(key, msgspec.json.encode(document), keepttl=True)
        again = cluster.complete("acme", "auto", prompt)
        assert again.headers["x-braid-decision-source"] == "computed"
        assert again.json()["choices"] == first.json()["choices"]
        assert cluster.metric("braid_decision_store_total", result="tampered") == before + 1
        assert msgspec.json.decode(store.get(key))["decision"]["mixture"]
    third = cluster.complete("acme", "auto", prompt)
    assert third.headers["x-braid-decision-source"] == "stored"


def test_another_tenants_decision_is_no_use(cluster: LocalCluster) -> None:
    """A decision copied under another tenant's key is signed, but not for that key."""
    prompt = fresh("Make JSON of: name Ann, age 31")
    mine = cluster.complete("acme", "auto", prompt).headers["x-braid-decision"]
    theirs = cluster.complete("globex", "auto", prompt).headers["x-braid-decision"]
    before = cluster.metric("braid_decision_store_total", result="foreign")
    with redis.Redis.from_url(cluster.redis_url) as store:
        keys = list(store.scan_iter("braid:*"))
        (my_key,) = [name for name in keys if mine.encode() in name]
        (their_key,) = [name for name in keys if theirs.encode() in name]
        store.set(their_key, store.get(my_key), keepttl=True)
    again = cluster.complete("globex", "auto", prompt)
    assert again.headers["x-braid-decision-source"] == "computed"
    assert cluster.metric("braid_decision_store_total", result="foreign") == before + 1


def test_route_decides_only(cluster: LocalCluster) -> None:
    prompt = fresh("find all files larger than 10 MB")
    cluster.wait_until_at_rest(30)
    generated = cluster.metric("braid_engine_generated_tokens_total")
    answer = cluster.post("/v1/route", "acme", {"prompt": prompt}).json()
    assert answer["source"] == "computed"
    assert answer["mixture"][0]["name"] == "shell"
    scores = answer["scores"]
    assert sum(score["probability"] for score in scores) == pytest.approx(1, abs=1e-3)
    assert {score["name"] for score in scores} == {"sql", "json", "cron", "shell", "(base)"}
    assert cluster.metric("braid_engine_generated_tokens_total") == generated
