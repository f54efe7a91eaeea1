"""A Ray of one node with its dashboard, as a process: the REST interface that `serve deploy` asks.

Run as ``python ray_head.py TEMP_DIR DASHBOARD_PORT RESOURCES``; it ends when its standard input
does, and takes every process of the node along.
"""

import json
import sys

import ray

LOOPBACK = "127.0.0.1"
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment in which Ray takes 127.0.0.1 for the node's address, in all its processes."""
OBJECT_STORE_BYTES = 100 * 2**20


def main(temp_dir: str, dashboard_port: str, resources: str) -> None:
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
    )
    print("ready", flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
