"""Serve's target follows the controller: to 0 and back, across restarts and other hands."""

import os
import subprocess
import sys
import tempfile
import textwrap

import pytest

from deployments.serve_env import SERVE_ENVIRONMENT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(200)]

CODE = """
    import asyncio, sys, time
    from pathlib import Path
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
    from cluster.errors import ReplicaLost
    from cluster.placement.control.drain import leaving_order
    from cluster.placement.control.serve_counts import ServeCounts
    from deployments.controller.serve_target import ServeTarget
    from deployments.ray_compat import init_loopback_node

    init_loopback_node(
        Path(sys.argv[1]), num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False,
        log_to_driver=False,
    )
    serve.start(proxy_location="Disabled")

    class Actor:
        def __init__(self, *others):
            pass

    def run(wish=1, *, external=True):
        def deployment(name, count, **options):
            return serve.deployment(
                name=name, num_replicas=count, ray_actor_options={"num_cpus": 0}, **options
            )(Actor)
        replica = deployment("Replica", wish, graceful_shutdown_wait_loop_s=0.1).bind()
        controller = deployment("Controller", 1).bind(replica)
        serve.run(
            deployment("Front", 1).bind(replica, controller), name="braid", route_prefix=None,
            external_scaler_enabled=external,
        )

    async def listed(target):
        async with asyncio.timeout(60):
            while True:
                try:
                    return await target.read_replicas()
                except ReplicaLost:  # Serve's controller is about to be back
                    await asyncio.sleep(0.2)

    async def settled(target, count):
        async with asyncio.timeout(60):
            while await target.read() != ServeCounts(count, count, 0):
                await asyncio.sleep(0.05)
"""


def run(code: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= SERVE_ENVIRONMENT
    environment |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}  # this handle has no loop
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": f"{7:064x}"}
    with tempfile.TemporaryDirectory(prefix="braid-") as folder:  # sockets' paths have a limit
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CODE) + textwrap.dedent(code), folder],
            capture_output=True,
            text=True,
            timeout=180,
            env=environment,
        )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


def test_the_target_follows() -> None:
    said = run(
        """
        async def main():
            target = ServeTarget("braid")
            try:
                await target.read()
            except ReplicaLost as error:
                print("- unknown:", error.message[:37])
            run()
            await settled(target, 1)
            for count in (3, 0, 2):
                order = leaving_order(await target.read_replicas())
                await target.set_count(count)
                await settled(target, count)
                left = {item.replica_id for item in (await target.read_replicas()).replicas}
                gone = [name for name in order if name not in left]
                assert gone == list(order[: len(gone)]), (order, gone)

            controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            before = (await target.read_replicas()).replicas
            ray.kill(controller, no_restart=False)
            await target.read()
            await settled(target, 2)
            after = (await listed(target)).replicas
            assert {r.replica_id for r in before} == {r.replica_id for r in after}
            print("- outlives Serve's controller")

            await asyncio.to_thread(run, 1)
            fresh = ServeTarget("braid")
            assert (await fresh.read()).target == 1
            assert (await target.read()).target == 2
            await target.set_count(2)
            assert (await fresh.read()).target == 2
            await settled(target, 2)
            print("- set back")

            await asyncio.to_thread(run, 1, external=False)
            await target.read()
            await target.set_count(3)
            assert "external_scaler_enabled" in target.status()["error"]
            assert target.status()["target"] == 1
            print("- refused")
        asyncio.run(main())
        serve.shutdown()
        ray.shutdown()
        """,
    )
    assert [line for line in said.splitlines() if line.startswith("- ")] == [
        "- unknown: Serve does not say which replicas run",
        "- outlives Serve's controller",
        "- set back",
        "- refused",
    ], said
