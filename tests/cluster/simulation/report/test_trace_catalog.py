"""Adapters of a trace have the aliases that rules name, and rules keep others as well."""

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.planning.pins import resolve_pins
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import AdapterRule
from cluster.simulation.report.trace_catalog import ADAPTER_BYTES, with_catalog
from cluster.simulation.trace import TraceRequest

SQL, CRON = AdapterRule(adapter="sql", copies=1), AdapterRule(adapter="cron-*", copies=1)


def asked(*names: str, tenant: str = "acme") -> TraceRequest:
    return TraceRequest(0.0, TenantId(tenant), names, 4, 4, 4)


def version(alias: str, start: str, owner: str = "acme", nbytes: int = 10) -> AdapterInfo:
    return AdapterInfo(AdapterDigest(start + 52 * "0"), alias, TenantId(owner), nbytes)


def names_of(*infos: AdapterInfo) -> dict[str, AdapterInfo]:
    """Return adapters by every name that traces have for them."""
    return {
        name: info
        for info in infos
        for name in (info.alias, f"{info.alias}@{info.digest[:12]}", info.digest)
    }


def pinned(catalog: list[AdapterInfo], *rules: AdapterRule) -> set[str]:
    least = resolve_pins(rules, catalog).least_copies(replicas=2)
    return {info.digest for info in catalog if info.digest in least}


def test_unknown_adapters_have_the_usual_size_and_their_first_tenant() -> None:
    known = {
        name: AdapterInfo(AdapterDigest(name * 8), name, TenantId("x"), size)
        for name, size in (("a", 10), ("b", 20), ("c", 90))
    }
    _, found = with_catalog([asked("a", "new"), asked("new", tenant="later")], known)
    assert [(info.alias, info.owner, info.nbytes) for info in found] == [
        ("a", "x", 10),
        ("new", "acme", 20),
    ]
    _, (alone,) = with_catalog([asked("new")], {})
    assert alone.nbytes == ADAPTER_BYTES
    assert len(alone.digest) == 64


def test_a_version_in_a_log_is_matched_by_rules_for_its_alias() -> None:
    requests, catalog = with_catalog([asked("cron@3f2a3f2a3f2a", "sql@3f2a3f2a3f2b")], {})
    assert [info.alias for info in catalog] == ["cron", "sql"]
    assert pinned(catalog, SQL) == {catalog[1].digest}
    assert requests[0].adapters == tuple(sorted(info.digest for info in catalog))


def test_what_only_looks_like_a_version_keeps_its_name() -> None:
    names = ("mail@home", "sql@3F2A3F2A3F2A", "sql@3f2a")
    _, catalog = with_catalog([asked(*names)], {})
    assert sorted(info.alias for info in catalog) == sorted(names)


def test_a_version_that_was_replaced_since_is_pinned_alone() -> None:
    now = version("sql", "bbbbbbbbbbbb", owner="globex")
    _, catalog = with_catalog([asked("sql@aaaaaaaaaaaa")], names_of(now), [SQL])
    assert [(info.alias, info.owner) for info in catalog] == [("sql", "globex")]
    assert pinned(catalog, SQL) == {catalog[0].digest} != {now.digest}


def test_of_several_owners_of_an_alias_the_one_who_asks_has_the_unknown_version() -> None:
    known = names_of(version("sql", "b" * 12, "globex"), version("sql", "c" * 12, "initech"))
    known |= {"globex's": version("sql", "b" * 12, "globex")}
    _, (found,) = with_catalog([asked("sql@aaaaaaaaaaaa", tenant="initech")], known)
    assert found.owner == "initech"


def test_adapters_that_rules_keep_are_there_though_nothing_asks_for_them() -> None:
    one, two = version("cron-day", "1" * 12), version("cron-night", "2" * 12)
    known = names_of(one, two, version("other", "3" * 12))
    trace = [asked("sql")]
    _, alone = with_catalog(trace, known)
    assert [info.alias for info in alone] == ["sql"]
    _, kept = with_catalog(trace, known, [SQL, CRON])
    assert [info.alias for info in kept] == ["sql", "cron-day", "cron-night"]
    assert pinned(kept, CRON) == {one.digest, two.digest}


def test_one_adapter_under_two_names_is_one() -> None:
    info = version("sql", "b" * 12)
    requests, catalog = with_catalog([asked("sql"), asked(f"sql@{'b' * 12}")], names_of(info))
    assert catalog == [info]
    assert {one.adapters for one in requests} == {(info.digest,)}
