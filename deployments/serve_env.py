"""The Serve flags the whole application depends on, in one table.

Serve reads its flags from the process environment when it is imported, so they must be set before
Ray starts: a local run exports this table, and the Kubernetes manifests repeat it on every Ray
container (a test compares the two).
"""

from types import MappingProxyType
from typing import Final

SERVE_ENVIRONMENT: Final = MappingProxyType(
    {
        # Actors' code on the main event loop, calls between deployments over gRPC.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # The flag above implies it, but fronts run their own HTTP server (front/http_server.py).
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
        # How soon the controller's word about the replica count reaches Serve's autoscaler.
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
