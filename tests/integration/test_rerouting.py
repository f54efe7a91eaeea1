"""`auto:sentences`: an answer whose adapters change with its sentences, over HTTP.

The first sentences are forced by a regular expression, so that what the router reads is known; what
follows is free, and so shows the adapters that computed it.
"""

import json
import re
import time

import httpx2
import msgspec
import pytest
import redis

from testing.local_cluster import LocalCluster
from testing.waiting import wait_for
from tests.support.live_stream import LiveStream, replica_processes

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

SENTENCES = (
    "Count the orders placed by each customer in the orders table.",
    "Run the backup every Monday at 6 in the morning.",
)
FORCED = " ".join((*SENTENCES, "Then"))  # a sentence is over when the next one begins
LONG = 480
COMPUTED = "braid_router_computations_total"


def fresh(text: str) -> str:
    """Return a prompt that no earlier run has asked; the router reads its last characters alone."""
    return f"{text} ({time.time_ns()})"


def wish(prompt: str, max_tokens: int, **fields: object) -> dict[str, object]:
    """Return the fields of a request whose first sentences are forced."""
    forced = re.escape(FORCED).replace("\\ ", " ") + r"[\s\S]{0,3000}"
    return {"prompt": prompt, "max_tokens": max_tokens, "guided_regex": forced, **fields}


def ask(
    cluster: LocalCluster, prompt: str, max_tokens: int = 72, **fields: object
) -> httpx2.Response:
    answer = cluster.complete("acme", "auto:sentences", **wish(prompt, max_tokens, **fields))
    assert answer.status_code == 200, answer.text
    return answer


def applied(cluster: LocalCluster) -> tuple[float, float]:
    """Return the decisions applied to running answers, as front and replicas count them."""
    return (
        cluster.metric("braid_reroutes_total", result="applied"),
        cluster.metric("braid_engine_reroutes_applied_total"),
    )


def test_each_sentence_has_its_decision_and_a_repeat_routes_nothing(cluster: LocalCluster) -> None:
    prompt = fresh("Say what is to be done")
    before = applied(cluster)
    first = ask(cluster, prompt, explain=True).json()["choices"][0]
    assert first["text"].startswith(FORCED)
    sentences = first["explain"]["sentences"]
    assert (sentences[0]["tokens"], sentences[0]["start"]) == (0, 0)
    by_name = [{term["name"] for term in s.get("mixture", ())} for s in sentences]
    assert "sql" in by_name[1]
    assert "cron" in by_name[2]
    changed = [s for s in sentences[1:] if s["state"] == "applied"]
    assert changed, sentences
    for sentence in changed:
        assert sentence["start"] >= sentence["tokens"] > 0
    expected = tuple(count + len(changed) for count in before)
    wait_for("both ends count", lambda: applied(cluster) == expected, 10)

    with redis.Redis.from_url(cluster.redis_url) as store:
        for sentence in changed:
            (key,) = [k for k in store.scan_iter("braid:*") if sentence["decision"].encode() in k]
            assert 0 < store.ttl(key) <= 3600
            kept = msgspec.json.decode(store.get(key))["decision"]
            assert kept["granularity"] == "sentence"
            assert kept["delay"] == sentence["start"] - sentence["tokens"]
            assert SENTENCES[0].encode() not in store.get(key)

    computed = cluster.metric(COMPUTED, router="sentences")
    again = ask(cluster, prompt, explain=True).json()["choices"][0]
    assert again["text"] == first["text"]
    repeated = again["explain"]["sentences"]
    assert {s["source"] for s in repeated} == {"stored"}
    places = [(s["tokens"], s["start"], s["decision"]) for s in sentences]
    assert [(s["tokens"], s["start"], s["decision"]) for s in repeated] == places
    assert cluster.metric(COMPUTED, router="sentences") == computed


def test_streams_and_choices_are_routed_alike(cluster: LocalCluster) -> None:
    prompt = fresh("Say it again")
    whole = ask(cluster, prompt).json()["choices"][0]["text"]
    both = ask(cluster, prompt, n=2, explain=True).json()["choices"]
    assert [choice["text"] for choice in both] == [whole, whole]
    assert both[0]["explain"]["sentences"] == both[1]["explain"]["sentences"]
    events = ask(cluster, prompt, stream=True).text.split("\n\n")
    pieces = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole
    stopped = ask(cluster, prompt, stop=["every Monday"]).json()["choices"][0]
    assert stopped["text"] == FORCED.partition("every Monday")[0]


def test_a_lost_replica_takes_no_span_with_it(cluster: LocalCluster) -> None:
    prompt = fresh("Say it once more")
    ask(cluster, prompt, LONG)
    expected = ask(cluster, prompt, LONG, explain=True).json()["choices"][0]
    processes = replica_processes(cluster)
    failovers = cluster.metric("braid_failovers_total")
    body = {**wish(prompt, LONG, explain=True), "model": "auto:sentences"}
    streams = [LiveStream(cluster, "acme", body, reach=len(FORCED) + 1) for _ in range(4)]
    first = streams[0]
    first.wait_until_reached()  # its third sentence has begun, and hundreds of tokens are to come
    processes[first.replica].kill()
    at = len(first.text)
    for stream in streams:
        stream.join()
    assert [stream.text for stream in streams] == [expected["text"]] * 4
    assert at < len(first.text), "the answer had ended before its replica was killed"
    assert cluster.metric("braid_failovers_total") > failovers
    for stream in streams:
        places = [(s["tokens"], s["start"]) for s in stream.explain["sentences"]]
        assert places == [(s["tokens"], s["start"]) for s in expected["explain"]["sentences"]]
