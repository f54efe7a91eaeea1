"""Says in words what a report rests on: costs, moment, weights, and rules that match nothing."""

from collections.abc import Iterable
from datetime import UTC, datetime

from cluster.placement.planning.pins import resolve_pins
from cluster.placement.policy.week import zone_of
from cluster.simulation.report.recipe import LogSource, TraceSource
from cluster.simulation.report.trials import Column
from cluster.simulation.spec import SimulationSpec
from deployments.cli.simulation.cluster_facts import ClusterFacts


def setup_words(
    spec: SimulationSpec,
    source: TraceSource,
    columns: Iterable[Column],
    facts: ClusterFacts | None,
    *,
    costs: str,
    looks: str,
) -> dict[str, str]:
    """Return a line for each premise, by its name.

    Args:
        spec: of the first seed.
        costs: where they are from.
        looks: what to say of how often the simulated parts look.
    """
    replicas, shape = spec.replicas, spec.shape
    return {
        "requests": source.words,
        "begins": begin_words(spec, source, columns),
        "cluster": f"{replicas} replica{'' if replicas == 1 else 's'} at the start, "
        f"{shape.slots} slots each, batches of {shape.engine.max_batch_size}; "
        f"{spec.engine} engine{looks}",
        "costs": costs,
        "weights": "the policies' alone: no cluster was asked for its tenants file"
        if facts is None
        else f"a tier's where the policy names one, else the tenants file's at {facts.url}",
        "promises": "; ".join(
            f"{name}: {tier.ttft:g} s to the first token, {tier.itl:g} s between tokens"
            for name, tier in spec.policy.tiers.items()
        ),
    }


def begin_words(spec: SimulationSpec, source: TraceSource, columns: Iterable[Column]) -> str:
    """Return the moment at which the trace begins, in UTC and in the zones of all schedules."""
    at = datetime.fromtimestamp(spec.start_wall, UTC)
    policies = [column.change(spec).policy for column in columns]
    zones = {entry.zone for policy in policies for entry in policy.replicas.schedule} - {"UTC"}
    words = f"{at:%a %Y-%m-%d %H:%M} UTC"
    words += "".join(
        f", {at.astimezone(zone_of(zone)):%a %H:%M} in {zone}" for zone in sorted(zones)
    )
    if isinstance(source, LogSource) and source.start is not None:
        return words
    return f"the trace does not say when; taken for {words}"


def notes(
    spec: SimulationSpec, source: TraceSource, columns: Iterable[Column], seeds: int
) -> list[str]:
    """Say what a reader must know before comparing."""
    found = []
    if isinstance(source, LogSource) and seeds > 1:
        found.append(
            "All seeds serve the same recorded requests: the intervals show the chance in picks, "
            "not that in arrivals."
        )
    said: set[str] = set()
    for column in columns:
        policy = column.change(spec).policy
        for words in resolve_pins(policy.adapters, spec.catalog).unknown:
            if words not in said:
                said.add(words)
                found.append(f"{column.name}: {words}. The rule had no effect.")
    return found
