"""Counts what becomes of broken policies: refused with path and remedy, accepted, or a crash.

The documents are those of ``testing.broken_policies``, and some that only a cluster makes
impossible. A refusal counts if the mistake is named at its path with the words that are to be said
of it; the property tests change entries and bytes at random besides.
"""

import traceback
from collections import Counter
from collections.abc import Iterator

from benchmarks.placement.row import ResultRow
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy.policy_load import examine_policy
from cluster.placement.policy.present_cluster import PresentCluster, problems_there
from cluster.placement.policy.problems import PolicyProblem
from testing.broken_policies import BROKEN_POLICIES, BrokenPolicy

DEMANDED = 40
SLOTS = 16
ADAPTERS = 200
BIG = AdapterInfo(AdapterDigest("big"), "big", TenantId("acme"), 3 * 2**30)
CROWDED = PresentCluster(
    tenants=frozenset({"acme"}),
    adapters=(
        BIG,
        *(
            AdapterInfo(AdapterDigest(f"digest-{n}"), f"a{n}", TenantId("acme"), 10 * 2**20)
            for n in range(ADAPTERS)
        ),
    ),
    slots=SLOTS,
    adapter_bytes=512 * 2**20,
    replicas=2,
)
IMPOSSIBLE: tuple[BrokenPolicy, ...] = (
    BrokenPolicy(
        "adapters: [{adapter: 'a*', copies: all}]",
        "adapters[0].copies",
        "200 adapters on every replica need as many slots, and a replica has 16; give numbers",
    ),
    BrokenPolicy(
        "adapters:\n" + "\n".join(f"- {{adapter: a{n}, copies: all}}" for n in range(ADAPTERS)),
        "adapters[16].copies",
        "17 adapters on every replica need as many slots",
    ),
    BrokenPolicy(
        "adapters: [{adapter: 'a*'}]", "adapters[0].copies", "replicas of 16 slots hold 32; lower"
    ),
    BrokenPolicy(
        "adapters: [{adapter: 'a*', copies: {min: 1, max: 2}}]",
        "adapters[0].copies",
        "200 copies are promised, and 2 replicas of 16 slots hold 32; lower copies",
    ),
    BrokenPolicy(
        "adapters: [{adapter: 'a*', copies: {max: 1}}, {adapter: 'a*', owner: acme}]",
        "adapters[1].copies",
        "with this rule 200 copies are promised, and 2 replicas of 16 slots hold 32",
    ),
    BrokenPolicy("adapters: [{adapter: big}]", "adapters[0].adapter", "raise adapters.memory_byt"),
)


def rows() -> list[ResultRow]:
    """Judge every document."""
    found = Counter(outcomes())
    total = found.total()
    counts = [f"{found[word]} {word}" for word in ("refused otherwise", "accepted", "crashed")]
    return [
        ResultRow(
            name="N24",
            what=f"operators' mistakes: {total} broken policies, of which {len(IMPOSSIBLE)} are "
            "impossible in one cluster only",
            before="19 of 33 refused, well worded",
            demanded=f"{DEMANDED} or more, each refused with path and remedy; none accepted, none "
            "crashes",
            after=f"{found['refused']} refused with path and remedy, {', '.join(counts)}",
            interval="-",
            met=found["refused"] == total >= DEMANDED,
        )
    ]


def outcomes() -> Iterator[str]:
    """Return what becomes of each document."""
    for broken in (*BROKEN_POLICIES, *IMPOSSIBLE):
        try:
            problems = judged(broken.text)
        except Exception:  # that is what is looked for
            traceback.print_exc()
            yield "crashed"
            continue
        told = [one.words for one in problems if one.path == broken.path]
        if any(broken.words in words for words in told):
            yield "refused"
        else:
            print(f"{broken.text[:60]!r}: {'; '.join(map(str, problems)) or 'accepted'}")
            yield "refused otherwise" if problems else "accepted"


def judged(text: str) -> tuple[PolicyProblem, ...]:
    """Return what is wrong with a document, alone and in the crowded cluster."""
    reading = examine_policy(text.encode())
    if reading.policy is None:
        return reading.problems
    return tuple(problems_there(reading.policy, CROWDED))


if __name__ == "__main__":
    for row in rows():
        print(f"{row.what}: {row.after}; demanded {row.demanded}")
