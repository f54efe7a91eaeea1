"""The controller's knowledge for people, JSON-able."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.domain.ids import AdapterDigest
from cluster.placement.control.counting import NO_TICK_YET, Counting
from cluster.placement.control.fleet import Fleet
from cluster.placement.control.history import History
from cluster.placement.demand.demand import Demand
from cluster.placement.planning.load import load_of
from cluster.placement.planning.plan import Plan

TOP_KEYS = 50


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
    """Return the copies of each adapter with the reason, and what has no place."""
    return {
        "adapters": [asdict(target) for target in planned.copies],
        "unplaced": [
            {"digest": digest, "adapter": history.alias(digest), "reason": reason}
            for digest, reason in planned.unplaced
        ],
    }


def describe_load(demand: Demand) -> dict[str, Any]:
    """Return the rate of all requests, and each tenant's by adapter."""
    load = load_of(demand)
    return {"requests_per_s": load.total, "tenants": load.tenants()}


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
