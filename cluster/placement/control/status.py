"""The controller's knowledge for people, JSON-able."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.domain.ids import AdapterDigest
from cluster.placement.control.counting import NO_TICK_YET, Counting
from cluster.placement.control.fleet import Fleet
from cluster.placement.control.history import History
from cluster.placement.demand.demand import Demand
from cluster.placement.planning import reasons
from cluster.placement.planning.plan import Plan, PlannedSet
from cluster.placement.policy import ClusterPolicy

TOP_KEYS = 50


def describe_modes(policy: ClusterPolicy) -> dict[str, str]:
    """Return what the policy lets the controller do with the count and with adapters."""
    return {"replicas": policy.replicas.mode, "placement": policy.placement.mode}


def describe_count(counting: Counting) -> dict[str, Any]:
    """Describe the replica count, and why it is so; None before the first tick."""
    counted = counting.last
    count = None if counted is NO_TICK_YET else counted.count
    return {
        "replica_count": count,
        "replica_reason": counted.reason,
        "scaling": {
            **asdict(counted),
            "count": count,
            "draining": sorted(counting.draining),
        },
    }


def describe_fleet(fleet: Fleet, history: History, now: float) -> dict[str, Any]:
    """Return each replica with what it should have and what it has."""
    return {
        replica_id: {
            "version": [member.version.epoch, member.version.number],
            "acknowledged": [member.acknowledged.epoch, member.acknowledged.number],
            "suspect": member.suspect,
            "heard_s": round(max(0.0, now - member.heard_at), 3),
            "desired": [
                {"digest": digest, "adapter": history.alias(digest)} for digest in member.desired
            ],
            "resident": [
                {"digest": a.digest, "adapter": a.alias, "state": a.state.value}
                for a in member.snapshot.resident
            ],
        }
        for replica_id, member in sorted(fleet.members.items())
    }


def describe_plan(planned: Plan, history: History) -> dict[str, Any]:
    """Return each set's places with the reason, and the promises without a place."""
    return {
        "sets": [_describe_set(one) for one in planned.sets],
        "unplaced": [
            {
                "adapters": [history.alias(digest) for digest in members],
                "digests": members,
                "reason": reason,
            }
            for members, reason in planned.unplaced
        ],
    }


def _describe_set(planned: PlannedSet) -> dict[str, Any]:
    one = planned.wanted
    return {
        "adapters": planned.aliases,
        "digests": planned.members,
        "replicas": planned.replicas,
        "present": planned.present,
        "copies": planned.copies,
        "pinned": planned.pinned,
        "requests_per_s": one.up if one else 0.0,
        "work": one.work if one else 0.0,
        "saved": one.saved if one else 0.0,
        "tenants": dict(one.tenants) if one else {},
        "reason": reasons.of_set(planned),
    }


def describe_load(demand: Demand) -> dict[str, Any]:
    """Return the rate of all requests, and each tenant's."""
    tenants: dict[str, float] = {}
    for rate in demand.rates:
        tenants[rate.key.tenant] = tenants.get(rate.key.tenant, 0.0) + rate.up
    return {"requests_per_s": demand.up, "tenants": tenants}


def describe_demand(demand: Demand, aliases: Mapping[AdapterDigest, str]) -> list[dict[str, Any]]:
    """Return the busiest keys, busiest first."""
    busiest = sorted(demand.rates, key=lambda rate: (-rate.up, rate.key))[:TOP_KEYS]
    return [
        {
            "tenant": rate.key.tenant,
            "adapters": [aliases.get(digest, digest) for digest in rate.key.adapters],
            "up": rate.up,
            "down": rate.down,
            "hold": rate.hold,
            "prompt_tokens": rate.prompt_tokens,
            "generated_tokens": rate.generated_tokens,
        }
        for rate in busiest
    ]
