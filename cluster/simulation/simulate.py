"""Runs a trace through a simulated cluster."""

from collections.abc import Callable

from cluster.simulation.parts.simulated_cluster import SimulatedCluster
from cluster.simulation.result import SimulationResult
from cluster.simulation.spec import SimulationSpec


def simulate(
    spec: SimulationSpec, *, progress: Callable[[float], None] | None = None
) -> SimulationResult:
    """Serve the trace of ``spec``; equal specifications give equal results.

    Args:
        progress: called now and then with the share of the trace that is over, 0 to 1.

    Raises:
        ModelNotFound: the trace names an adapter that the catalog lacks.
        ValueError: the trace is not in order of time, or the specification contradicts itself.
    """
    cluster = SimulatedCluster(spec, progress)
    try:
        cluster.run()
        return cluster.result()
    finally:
        cluster.close()
