"""A Ray of one node with its dashboard, as a process: the REST interface that `serve deploy` asks.

Run as ``python ray_head.py TEMP_DIR DASHBOARD_PORT RESOURCES``; it ends when its standard input
does, and takes every process of the node along.
"""

import json
import sys
from unittest.mock import patch

import ray

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 100 * 2**20


def main(temp_dir: str, dashboard_port: str, resources: str) -> None:
    # See deployments/local/ray_node.py: without this Ray listens on every interface.
    with patch("ray._private.services.resolve_ip_for_localhost", lambda host: host):
        ray.init(
            num_cpus=2,
            resources=json.loads(resources),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=True,
            dashboard_host=LOOPBACK,
            dashboard_port=int(dashboard_port),
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=temp_dir,
            _node_ip_address=LOOPBACK,
        )
    print("ready", flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
