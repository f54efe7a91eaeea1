"""A Ray of one node that listens on the loopback interface only."""

import os
from unittest.mock import patch

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 100 * 2**20
MIN_CPUS = 2


def start_ray() -> None:
    """Start Ray in this process's session; it ends with ``ray.shutdown`` or with the process.

    Ray replaces a loopback address by the machine's own, and then listens on every interface.
    Its servers bind to loopback alone when the node's address stays 127.0.0.1, so the replacement
    is switched off while the node starts.
    """
    import ray

    with patch("ray._private.services.resolve_ip_for_localhost", lambda host: host):
        ray.init(
            num_cpus=max(MIN_CPUS, os.cpu_count() or MIN_CPUS),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=LOOPBACK,
        )
