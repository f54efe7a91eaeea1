"""The replica count as Serve's autoscaler asks for it.

The decision is taken by the controller, by the operator's policy; every replica repeats it in its
autoscaling statistics, and this function, which runs inside Serve's own controller and must not
wait for anything, reads it there.
"""

from typing import Any

from ray.serve.config import AutoscalingContext

METRIC = "desired_replicas"


def replica_count_policy(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Return the controller's replica count, or the present one before it has given any."""
    reported = (context.aggregated_metrics or {}).get(METRIC) or {}
    values = [float(value) for value in reported.values() if value is not None and value >= 1]
    desired = round(max(values)) if values else context.target_num_replicas
    low = context.capacity_adjusted_min_replicas or 1
    high = context.capacity_adjusted_max_replicas or desired
    return max(low, min(high, desired)), {}
