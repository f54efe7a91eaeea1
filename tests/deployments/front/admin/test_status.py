"""Checks what an administrator reads of the cluster."""

import pytest

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest
from tests.support.http_front import HttpFront, OpenFront, write_tenants
from tests.support.openai_bodies import COMPLETIONS, completion


def held(digest: str, state: AdapterState, leases: int) -> ResidentAdapter:
    """Make what a replica says of an adapter that it has."""
    return ResidentAdapter(AdapterDigest(digest), "sql", state, nbytes=100, rank=2, leases=leases)


async def test_the_placement_is_the_controllers_word(front: HttpFront) -> None:
    front.cluster.placement = {"version": 3, "wanted": {"r0": ["sql"]}}
    answer = await front.get("/admin/v1/placement", "root")
    assert (answer.status_code, answer.json()) == (200, front.cluster.placement)


async def test_the_cost_model_is_the_controllers_word(front: HttpFront) -> None:
    front.cluster.placement = {"version": 3, "model": {"rules": "fit", "loads": {}}}
    answer = await front.get("/admin/v1/model", "root")
    assert (answer.status_code, answer.json()) == (200, {"rules": "fit", "loads": {}})
    assert (await front.get("/admin/v1/model", "acme")).status_code == 403


async def test_a_controller_without_a_cost_model_has_an_empty_one(front: HttpFront) -> None:
    answer = await front.get("/admin/v1/model", "root")
    assert (answer.status_code, answer.json()) == (200, {})


async def test_a_controller_that_does_not_answer_is_said_instead_of_costs(
    front: HttpFront,
) -> None:
    front.cluster.placement = {"error": "the controller does not answer: TimeoutError"}
    answer = await front.get("/admin/v1/model", "root")
    assert (answer.status_code, answer.json()) == (200, front.cluster.placement)


async def test_the_status_has_everything_at_a_glance(front: HttpFront) -> None:
    status = (await front.get("/admin/v1/status", "root")).json()
    assert (status["version"], status["model"]) == ("1.2.3", "org/tiny")
    assert status["routers"] == ["words", "sentences", "fixed"]
    assert [adapter["name"] for adapter in status["adapters"]] == ["cron", "json", "sql"]
    assert {adapter["owner"] for adapter in status["adapters"]} == {"shared"}
    assert status["adapter_problems"] == []
    assert [replica["replica_id"] for replica in status["replicas"]] == ["r0"]
    assert status["placement"] == {"plan": "as scripted"}
    assert status["tenants_file"]["error"] is None
    assert status["decision_store"]["breaker"] == "closed"
    (acme,) = [tenant for tenant in status["tenants"] if tenant["id"] == "acme"]
    assert acme == {
        "id": "acme", "admin": False, "metrics": False, "weight": 1.0, "adapters": ["*"],
    }  # fmt: skip


async def test_the_status_counts_the_decision_stores_hits(front: HttpFront) -> None:
    for _ in range(2):
        await front.post("/v1/route", {"prompt": "sql"})
    store = (await front.get("/admin/v1/status", "root")).json()["decision_store"]
    assert (store["stored"], store["hits"], store["misses"]) == (1, 1, 1)


async def test_the_status_has_no_key_and_no_hash_of_one(front: HttpFront) -> None:
    text = (await front.get("/admin/v1/status", "root")).text
    assert "keys" not in text


async def test_the_residency_is_each_replicas_own_word(front: HttpFront) -> None:
    digest = (await front.get("/admin/v1/adapters/sql", "root")).json()["version"]
    (replica,) = front.replicas
    replica.resident = (
        held(digest, AdapterState.READY, 2),
        held("f" * 64, AdapterState.LOADING, 0),
    )
    replica.host = (held(digest, AdapterState.ON_HOST, 0),)
    replica.publish()
    on_host: list[dict[str, object]] = []
    while not on_host:
        (found,) = (await front.get("/admin/v1/residency", "root")).json()["replicas"]
        on_host = found["on_host"]
    assert found["replica_id"] == "r0"
    told = [(one["digest"], one["tier"], one["names"]) for one in found["resident"]]
    assert told == [(digest, "device", ["shared/sql"]), ("f" * 64, "host", [])]
    assert [(one["tier"], one["names"]) for one in on_host] == [("host", ["shared/sql"])]
    card = (await front.get("/admin/v1/adapters/sql", "root")).json()
    (one,) = card["residency"]
    assert (one["replica"], one["tier"], one["leases"]) == ("r0", "device", 2)


async def test_what_is_in_host_memory_alone_is_told_of_an_adapter(front: HttpFront) -> None:
    digest = (await front.get("/admin/v1/adapters/sql", "root")).json()["version"]
    (replica,) = front.replicas
    replica.host = (held(digest, AdapterState.ON_HOST, 0),)
    replica.publish()
    told: list[dict[str, object]] = []
    while not told:
        told = (await front.get("/admin/v1/adapters/sql", "root")).json()["residency"]
    assert [(one["replica"], one["tier"]) for one in told] == [("r0", "host")]


async def test_the_integrity_has_every_replicas_books(open_front: OpenFront) -> None:
    async with open_front(replicas=3) as front:
        front.replicas[1].fault = "a slot is leased by nobody"
        await front.replicas[2].die()
        answer = (await front.get("/admin/v1/integrity", "root")).json()
        assert answer["replicas"] == {"r0": None, "r1": "a slot is leased by nobody"}
        assert answer["silent"] == ["r2"]
        assert len(answer["failures"]) == 1


async def test_an_adapter_that_was_refused_at_the_start_is_told(
    open_front: OpenFront, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "broken").mkdir()
    (folder / "broken" / "adapter_config.json").write_text("{")
    async with open_front(adapters_dir=folder, routers=[]) as front:
        status = (await front.get("/admin/v1/status", "root")).json()
        (problem,) = status["adapter_problems"]
        assert problem["alias"] == "broken"
        assert status["adapters"] == []


async def test_a_changed_tenants_file_is_followed(front: HttpFront) -> None:
    assert (await front.get("/v1/models", "initech")).status_code == 401
    write_tenants(front.tenants_file, ({"id": "initech"}, {"id": "root", "admin": True}))
    while (await front.get("/v1/models", "initech")).status_code != 200:
        front.clock.advance(1)
        await front.pause()
    assert (await front.get("/v1/models", "acme")).status_code == 401
    tenants = (await front.get("/admin/v1/status", "root")).json()["tenants"]
    assert [tenant["id"] for tenant in tenants] == ["initech", "root"]


async def test_a_broken_tenants_file_is_told_and_changes_nothing(front: HttpFront) -> None:
    front.tenants_file.write_text("tenants: [{id: A}]")
    error = None
    while error is None:
        await front.pause()
        error = (await front.get("/admin/v1/status", "root")).json()["tenants_file"]["error"]
    assert "tenants[0].id" in error
    assert (await front.get("/v1/models", "acme")).status_code == 200
    assert (await front.figures())["braid_tenants_file_refused"] == 1


async def test_a_pick_is_explained_before_there_is_a_request(front: HttpFront) -> None:
    url = "/admin/v1/pick?adapters=sql,json&tenant=acme&prompt_tokens=20&expected_tokens=8"
    answer = await front.get(url, "root")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["replica"], found["replicas"]) == ("r0", 1)
    (candidate,) = found["candidates"]
    terms = {"queue_ms", "load_ms", "prefill_ms", "harm_ms"}
    assert candidate.keys() == {"replica", "load", "age_s", "cost_ms", *terms}
    base = (await front.get("/admin/v1/pick", "root")).json()
    assert base["candidates"][0]["load_ms"] == 0.0
    assert candidate["load_ms"] > 0.0


async def test_a_pick_of_an_unknown_adapter_or_without_a_right_is_refused(front: HttpFront) -> None:
    unknown = await front.get("/admin/v1/pick?adapters=vibes", "root")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["param"] == "adapters"
    assert (await front.get("/admin/v1/pick?adapter=sql", "root")).status_code == 400
    assert (await front.get("/admin/v1/pick")).status_code == 403


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("tenant=acmee", 400, "tenant: there is no tenant 'acmee'; did you mean 'acme'?"),
        ("tenant=zzzzzzzz", 400, "tenant: there is no tenant 'zzzzzzzz'"),
        ("adapters=,,", 400, "adapters: a name is empty; separate names by single commas"),
        ("adapters=sql,,json", 400, "adapters: a name is empty; separate names by single commas"),
        (
            "adapters=sql,jsonn",
            404,
            "adapters: no adapter is shared as 'jsonn'; did you mean 'json'?",
        ),
        (
            "adapters=sqll&tenant=globex",
            404,
            "adapters: globex has no adapter 'sqll'; did you mean 'sql'?",
        ),
        ("adapters=json&tenant=globex", 404, "adapters: globex has no adapter 'json'"),
    ],
)
async def test_a_pick_names_the_nearest_of_what_it_does_not_know(
    front: HttpFront, query: str, status: int, message: str
) -> None:
    answer = await front.get(f"/admin/v1/pick?{query}", "root")
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == message


async def test_an_explained_answer_says_how_its_replica_was_picked(front: HttpFront) -> None:
    body = completion(explain=True)
    answer = (await front.post(COMPLETIONS, body)).json()
    pick = answer["choices"][0]["explain"]["pick"]
    assert (pick["replica"], pick["decided_by"]) == ("r0", "cost")
    plain = (await front.post(COMPLETIONS, completion())).json()
    assert "explain" not in plain["choices"][0]
    metrics = (await front.get("/metrics", "root")).text
    assert 'braid_pick_cost_seconds_count{term="load"}' in metrics
