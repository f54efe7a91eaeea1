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
        "RAY_USAGE_STATS_ENABLED": "0",
        # The first flag also keeps 1,000 records before they reach the log, and standard error from
        # the process's own; both cost nothing here, where fronts and links carry the requests.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_LOG_TO_STDERR": "1",
        # Log files that Ray and Serve write themselves.
        "RAY_ROTATION_MAX_BYTES": "16777216",
        "RAY_ROTATION_BACKUP_COUNT": "3",
    }
)

SERVE_LOGGING: Final = MappingProxyType({"enable_access_log": False, "log_level": "WARNING"})
"""Serve's own logging of a deployment. It would log every call between deployments, of which
there are several a second."""

CONTAINER_ENVIRONMENT: Final = MappingProxyType(
    {
        # Processes keep the container's standard output and error; without it Ray points them to
        # files. With it Ray's own processes write there too, so only their warnings.
        "RAY_LOG_TO_STDERR": "1",
        "RAY_BACKEND_LOG_LEVEL": "warning",
    }
)
"""Flags of Ray containers on Kubernetes, besides those above."""
