"""The CPU overlay's Serve config, sent to a Ray by `serve deploy`, starts the same application."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from cluster.base_model.source import ModelLocation
from cluster.config import Settings, cache_folder
from cluster.tenancy.keys import hash_key
from deployments.local.quickstart import DEMO_ADAPTERS, DEMO_ROUTER
from deployments.local.valkey import EmbeddedValkey, free_port
from deployments.serve_env import CONTAINER_ENVIRONMENT, SERVE_ENVIRONMENT
from testing.waiting import wait_for
from tests.support import ray_head

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis, pytest.mark.timeout(420)]

OVERLAY = Path(__file__).parents[2] / "k8s" / "overlays" / "cpu"
PLACEHOLDER = f"{1:064d}"
KEY = "brd_test-key-of-the-overlay's-first-tenant"
RAY_TOKEN = f"{7:064x}"
START_TIMEOUT_S = 240.0


def overlay_serve_config() -> dict[str, Any]:
    """Return the config file that KubeRay hands to Serve."""
    patch = yaml.safe_load((OVERLAY / "serve-config.patch.yaml").read_text(encoding="utf-8"))
    config: dict[str, Any] = yaml.safe_load(patch["spec"]["serveConfigV2"])
    return config


def with_local_places(config: dict[str, Any], folder: Path, port: int) -> dict[str, Any]:
    """Return ``config`` with this machine's paths and addresses in the place of the container's."""
    local = deepcopy(config)
    args = local["applications"][0]["args"]
    tenants = folder / "tenants.yaml"
    text = (OVERLAY / "tenants.yaml").read_text(encoding="utf-8")
    tenants.write_text(text.replace(PLACEHOLDER, hash_key(KEY)), encoding="utf-8")
    args["tenants_file"] = str(tenants)
    args["controller"]["policy_file"] = str(OVERLAY / "policy.yaml")
    args["cache_dir"] = str(cache_folder(Settings()))
    args["front"] |= {"host": ray_head.LOOPBACK, "port": port}
    args["adapters_dir"] = str(DEMO_ADAPTERS)
    args["adapters"]["store_dir"] = str(folder / "adapters")
    args["routers"][0]["path"] = str(DEMO_ROUTER)
    if not DEMO_ROUTER.is_dir():  # a checkout whose demo was not built serves the base model
        del args["adapters_dir"], args["routers"]
    return local


def group_resources() -> dict[str, float]:
    """Return the custom resources of one pod of each worker group."""
    text = (OVERLAY.parents[1] / "base" / "rayservice.yaml").read_text(encoding="utf-8")
    groups = yaml.safe_load(text)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return {
        name: float(amount)
        for group in groups
        for name, amount in group["resources"].items()
        if name.startswith("braid_")
    }


@contextlib.contextmanager
def running_ray(environment: dict[str, str], output: Path) -> Iterator[str]:
    """Run a Ray node of its own, and yield the dashboard's address. No process of it is left.

    ``output`` takes the place of a container's standard output and error.
    """
    folder = tempfile.mkdtemp(prefix="braid-")  # short: sockets' paths have a small limit
    port = free_port()
    command = [sys.executable, ray_head.__file__, folder, str(port), json.dumps(group_resources())]
    with output.open("wb") as written:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None

    def started() -> bool:
        assert process.poll() is None, "Ray did not start"
        return b"ready\n" in output.read_bytes()

    try:
        wait_for("Ray started", started, START_TIMEOUT_S, pause_s=0.5)
        yield f"http://{ray_head.LOOPBACK}:{port}"
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(family, timeout=15)
        for left in alive:
            left.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert alive == [], "processes were left behind"


def serve_details(dashboard: str) -> dict[str, Any]:
    """Return what Serve says about itself."""
    headers = {"authorization": f"Bearer {RAY_TOKEN}"}
    answer = httpx2.get(f"{dashboard}/api/serve/applications/", headers=headers, timeout=30)
    answer.raise_for_status()
    details: dict[str, Any] = answer.json()
    return details


def wait_until_running(dashboard: str, url: str) -> dict[str, Any]:
    """Wait until Serve calls the application healthy and a front knows a replica.

    Returns Serve's details.
    """

    def running() -> dict[str, Any] | None:
        details = serve_details(dashboard)
        application = details["applications"]["braid"]
        assert application["status"] not in ("DEPLOY_FAILED", "UNHEALTHY"), application["message"]
        return details if application["status"] == "RUNNING" else None

    def ready() -> bool:
        try:
            return httpx2.get(f"{url}/-/healthz", timeout=10).status_code == 200
        except httpx2.HTTPError:
            return False

    details = wait_for("application running", running, START_TIMEOUT_S, pause_s=1.0)
    wait_for("front ready", ready, 60, pause_s=0.5)
    return details


def line_of(output: Path, request: str) -> dict[str, Any]:
    """Return the line of a request that has been answered."""
    lines = output.read_bytes().splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith(b'{"request":')]
    (found,) = [line for line in parsed if line["request"] == request]
    return dict(found)


def test_serve_deploy_starts_the_overlays_application(
    base_model: ModelLocation, tmp_path: Path
) -> None:
    port = free_port()
    config = with_local_places(overlay_serve_config(), tmp_path, port)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (tmp_path / "valkey").mkdir()
    valkey = EmbeddedValkey(tmp_path / "valkey")
    valkey.start()
    environment = {
        **os.environ,
        **SERVE_ENVIRONMENT,
        **CONTAINER_ENVIRONMENT,
        **ray_head.LOOPBACK_ONLY,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": RAY_TOKEN,
        "BRAID_REDIS_URL": valkey.url,
        "BRAID_SIGNING_KEY": "a key for this test alone, 32+ bytes long",
        "HF_HUB_OFFLINE": "1",
    }
    serve = str(Path(sys.executable).with_name("serve"))
    url = f"http://{ray_head.LOOPBACK}:{port}"
    try:
        output = tmp_path / "output"
        with running_ray(environment, output) as dashboard:
            sent = subprocess.run(
                [serve, "deploy", "--address", dashboard, str(file)],
                env=environment,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
            )
            assert sent.returncode == 0, sent.stdout
            details = wait_until_running(dashboard, url)

            (application,) = config["applications"]
            assert details["proxy_location"] == "Disabled"
            assert details["proxies"] == {}
            deployed = details["applications"]["braid"]
            assert deployed["route_prefix"] is None
            logging = {"logging_config": config["logging_config"]}
            assert deployed["deployed_app_config"] == application | logging
            assert {name: part["status"] for name, part in deployed["deployments"].items()} == {
                entry["name"]: "HEALTHY" for entry in application["deployments"]
            }

            models = [base_model.model_id]
            if "routers" in application["args"]:
                models.append("auto")
            for model in models:
                answer = httpx2.post(
                    f"{url}/v1/chat/completions",
                    headers={"authorization": f"Bearer {KEY}"},
                    json={
                        "model": model,
                        "messages": [{"role": "user", "content": "Name a colour."}],
                        "max_tokens": 8,
                        "temperature": 0,
                    },
                    timeout=120,
                )
                assert answer.status_code == 200, answer.text
                (choice,) = answer.json()["choices"]
                assert choice["message"]["content"]
                assert choice["finish_reason"] in ("stop", "length")
                line = line_of(output, answer.headers["x-request-id"])
                assert (line["outcome"], line["model"]) == ("completed", model)
    finally:
        valkey.stop()
