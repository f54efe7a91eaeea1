"""The Serve config of each overlay: generated, valid, and in agreement with the pods around it."""

import importlib
from pathlib import Path

import pytest
import yaml
from k8s_validation import manifests
from k8s_validation.serve_rules import serve_config_problems
from ray.serve.config import ProxyLocation
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import ServeDeploySchema

from cluster.errors import ConfigError
from cluster.placement.policy import ReplicasPolicy
from cluster.placement.policy.policy_load import load_policy
from cluster.tenancy.tenants import load_tenants
from deployments.controller.controller import controller_deployment
from deployments.front.front import front_deployment
from deployments.replica.replica import replica_deployment
from deployments.serve_config import (
    APP_IMPORT_PATH,
    PATCH_NAME,
    OverlayConfig,
    load_overlay_config,
    main,
    render_patch,
    render_serve_config,
    serve_config,
)
from deployments.serve_env import CONTAINER_ENVIRONMENT, SERVE_ENVIRONMENT


@pytest.fixture
def config(overlay: Path) -> OverlayConfig:
    return load_overlay_config(overlay / "app.yaml")


@pytest.fixture
def workers(rayservice) -> dict:
    return {name: group for name, group in manifests.groups(rayservice) if name != "head"}


def test_committed_patch_is_what_the_generator_gives(overlay):
    assert (overlay / PATCH_NAME).read_text(encoding="utf-8") == render_patch(overlay / "app.yaml")


def test_rendered_config_is_the_generated_one(overlay, rayservice):
    assert rayservice["spec"]["serveConfigV2"] == render_serve_config(overlay / "app.yaml")


def test_serve_and_the_application_accept_it(rayservice):
    assert serve_config_problems(rayservice["spec"]["serveConfigV2"]) == []


def test_arguments_are_the_whole_application_config(config):
    """Nothing of app.yaml is lost on the way to the application builder."""
    args = serve_config(config)["applications"][0]["args"]
    assert type(config.app).model_validate(args) == config.app


def test_serve_runs_no_proxy_and_no_route(config):
    """Fronts answer by themselves; an unset prefix would be "/", an unset location every node."""
    generated = serve_config(config)
    assert generated["proxy_location"] == "Disabled"
    assert "http_options" not in generated
    accepted = ServeDeploySchema.model_validate(generated)
    assert accepted.proxy_location == ProxyLocation.Disabled
    # What reaches Serve from the client is the schema without what was not set.
    (application,) = accepted.model_dump(exclude_unset=True)["applications"]
    assert application["route_prefix"] is None


def test_deployments_and_their_counts(config):
    front, replica, controller = serve_config(config)["applications"][0]["deployments"]
    assert (front["name"], replica["name"], controller["name"]) == (
        "Front",
        "Replica",
        "Controller",
    )
    assert front["num_replicas"] == config.app.front.replicas
    assert controller["num_replicas"] == 1
    assert "num_replicas" not in replica  # the controller's to set
    assert "autoscaling_config" not in replica
    assert replica["ray_actor_options"]["num_gpus"] == config.app.replica.num_gpus
    assert controller["ray_actor_options"]["resources"] == config.app.controller.resources


def test_deployments_are_those_of_the_application(config):
    generated = serve_config(config)["applications"][0]["deployments"]
    built = [
        front_deployment(config.app),
        replica_deployment(config.app, ReplicasPolicy()),
        controller_deployment(config.app),
    ]
    assert [entry["name"] for entry in generated] == [deployment.name for deployment in built]


def test_every_ray_container_has_the_flags(rayservice):
    for name, group in manifests.groups(rayservice):
        env = manifests.environment(group["template"]["spec"]["containers"][0])
        flags = {key: value for key, value in env.items() if key.startswith("RAY_")}
        assert flags == {**SERVE_ENVIRONMENT, **CONTAINER_ENVIRONMENT}, name
        assert env["HF_HUB_OFFLINE"] == "1"


def test_every_ray_container_has_the_secrets(rayservice):
    for name, group in manifests.groups(rayservice):
        env = group["template"]["spec"]["containers"][0]["env"]
        secret = {
            entry["name"]: entry["valueFrom"]["secretKeyRef"]["key"]
            for entry in env
            if "valueFrom" in entry
        }
        assert secret == {
            "BRAID_REDIS_URL": "redis-url",
            "BRAID_SIGNING_KEY": "signing-key",
        }, name


def test_only_fronts_are_reached_by_the_service(config, rayservice):
    """The Service's port is a name, and only the front's container has a port of that name."""
    spec = rayservice["spec"]
    (port,) = spec["serveService"]["spec"]["ports"]
    assert port["targetPort"] == "serve"
    assert spec["excludeHeadPodFromServeSvc"] is True
    having = {
        name: entry["containerPort"]
        for name, group in manifests.groups(rayservice)
        for entry in group["template"]["spec"]["containers"][0]["ports"]
        if entry["name"] == "serve"
    }
    assert having == {"front": config.app.front.port}


def test_front_readiness_asks_serve_and_replica_readiness_does_not(workers):
    def probe(name: str) -> tuple[str, str | int]:
        container = workers[name]["template"]["spec"]["containers"][0]
        get = container["readinessProbe"]["httpGet"]
        return get["path"], get["port"]

    assert probe("front") == ("/-/healthz", "serve")
    assert probe("replica") == ("/api/healthz", 52365)


def _per_pod(group: dict, wanted: dict[str, float]) -> int:
    """Return how many of what asks for ``wanted`` fit a pod of the group."""
    ((resource, amount),) = wanted.items()
    count = float(group["resources"].get(resource, 0)) / amount
    assert count == int(count)
    return int(count)


def test_groups_offer_what_the_deployments_ask(config, workers):
    """Whole fronts, and one replica, fit each pod of their group, and no pod of the other."""
    for name, wanted in (
        ("front", config.app.front.resources),
        ("replica", config.app.replica.resources),
    ):
        assert list(wanted) == [f"braid_{name}"]
        fitting = {other: _per_pod(group, wanted) for other, group in workers.items()}
        assert fitting.pop(name) >= 1
        assert set(fitting.values()) == {0}
    assert _per_pod(workers["replica"], config.app.replica.resources) == 1


def test_gpu_pods_have_the_gpus_their_replicas_take(config, workers):
    container = workers["replica"]["template"]["spec"]["containers"][0]
    gpus = float(container["resources"]["limits"].get("nvidia.com/gpu", 0))
    assert gpus == config.app.replica.num_gpus
    assert float(container["resources"]["requests"].get("nvidia.com/gpu", 0)) == gpus
    assert float(workers["replica"]["resources"].get("GPU", 0)) == gpus
    if gpus:
        (toleration,) = workers["replica"]["template"]["spec"]["tolerations"]
        assert toleration["key"] == "nvidia.com/gpu"


def test_logical_cpus_are_the_containers_cpus(workers):
    for name, group in workers.items():
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["resources"]["CPU"] == limits["cpu"], name


def test_group_sizes_follow_the_config_and_the_policy(config, workers, overlay):
    front, replica = workers["front"], workers["replica"]
    sizes = (front["minReplicas"], front["replicas"], front["maxReplicas"])
    pods, rest = divmod(config.app.front.replicas, _per_pod(front, config.app.front.resources))
    assert rest == 0
    assert sizes == (pods,) * 3
    policy = load_policy(overlay / "policy.yaml").replicas
    assert (replica["minReplicas"], replica["maxReplicas"]) == (policy.min, policy.max)


def test_serve_lets_the_controller_set_the_count(config):
    """Serve refuses the calls otherwise, and it refuses its own autoscaling together with them."""
    application = ServeDeploySchema.model_validate(serve_config(config)).applications[0]
    assert application.external_scaler_enabled
    assert not any(entry.is_autoscaling_configured() for entry in application.deployments)


def test_tenants_file_is_valid_and_lets_nobody_in(overlay):
    """Its digests are small numbers: no key is known that hashes to one."""
    directory = load_tenants(overlay / "tenants.yaml")
    assert [tenant.id for tenant in directory.tenants if tenant.admin] == ["admin"]
    assert [tenant.id for tenant in directory.tenants if tenant.metrics] == ["prometheus"]
    entries = yaml.safe_load((overlay / "tenants.yaml").read_text(encoding="utf-8"))["tenants"]
    assert all(int(key, 16) < 16 for entry in entries for key in entry["keys"])


def test_the_import_path_leads_somewhere():
    module, _, name = APP_IMPORT_PATH.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_disruption_budgets_leave_a_pod_to_move(rendered, workers):
    for doc in rendered:
        if doc["kind"] == "PodDisruptionBudget" and "minAvailable" in doc["spec"]:
            component = doc["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
            assert doc["spec"]["minAvailable"] < workers[component]["minReplicas"]


def test_pods_stop_later_than_their_requests(config, rayservice):
    """ray stop drains for 30 s, then Serve lets requests end, and both need some slack."""
    own = {
        deployment.name: deployment_to_schema(deployment).graceful_shutdown_timeout_s
        for deployment in (
            front_deployment(config.app),
            replica_deployment(config.app, ReplicasPolicy()),
            controller_deployment(config.app),
        )
    }
    generated = serve_config(config)["applications"][0]["deployments"]
    graceful = max(
        entry.get("graceful_shutdown_timeout_s", own[entry["name"]]) for entry in generated
    )
    assert graceful > 0
    needed = 30 + graceful + 15
    for name, group in manifests.groups(rayservice):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= needed, name


def test_old_cluster_outlives_the_longest_request(config, rayservice):
    delay = rayservice["spec"]["rayClusterDeletionDelaySeconds"]
    assert delay > config.app.front.request_timeout_s


def test_replicas_listen_beyond_their_pod(config):
    assert config.app.replica.host == "node"
    assert config.app.front.host == "0.0.0.0"


def test_mounted_files_are_where_the_config_looks(config, rendered, rayservice):
    """Tenants and policy are keys of a mounted map, mounted whole so that edits arrive."""
    files = manifests.only(
        [doc for doc in rendered if doc["metadata"]["name"] == "braid-config"], "ConfigMap"
    )["data"]
    for path in (config.app.tenants_file, config.app.controller.policy_file):
        assert path is not None
        assert path.name in files
        for name, group in manifests.groups(rayservice):
            mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
            (mount,) = [entry for entry in mounts if entry["name"] == "config"]
            assert str(path.parent) == mount["mountPath"], name
            assert "subPath" not in mount


def _groups_for(options: dict, rayservice: dict) -> dict[str, dict]:
    """Return the groups on which Ray may start an actor; the head offers no custom resource."""
    wanted = options.get("resources", {}) | {"GPU": options["num_gpus"]}
    return {
        name: group
        for name, group in manifests.groups(rayservice)
        if all(
            float(group.get("resources", {}).get(resource, 0)) >= amount
            for resource, amount in wanted.items()
        )
    }


def test_every_actor_starts_only_where_the_models_are(config, rayservice):
    """Fronts, replicas and the controller read them; the head mounts none."""
    paths = [config.app.cache_dir, config.app.adapters_dir, *(r.path for r in config.app.routers)]
    for entry in serve_config(config)["applications"][0]["deployments"]:
        places = _groups_for(entry["ray_actor_options"], rayservice)
        assert places, entry["name"]
        for name, group in places.items():
            mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
            roots = ["/opt/braid", *(mount["mountPath"] for mount in mounts)]
            for path in paths:
                assert any(path.is_relative_to(root) for root in roots), (entry["name"], name, path)


def test_the_controller_is_on_a_group_that_does_not_shrink(config, rayservice):
    """On a replica's pod it would keep that pod from going when load falls."""
    (controller,) = (
        entry
        for entry in serve_config(config)["applications"][0]["deployments"]
        if entry["name"] == "Controller"
    )
    assert list(_groups_for(controller["ray_actor_options"], rayservice)) == ["front"]


def test_an_actor_that_asks_for_nothing_may_start_on_the_head(rayservice):
    """The two tests above rest on this."""
    assert "head" in _groups_for({"num_gpus": 0}, rayservice)


def test_command_rewrites_a_stale_patch_and_check_only_reports_it(tmp_path, overlay, capsys):
    folder = tmp_path / "one"
    folder.mkdir()
    source = folder / "app.yaml"
    source.write_text((overlay / "app.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["--check", str(tmp_path)]) == 1
    assert not (folder / PATCH_NAME).exists()
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    text = source.read_text(encoding="utf-8").replace("model: ", "model: other-", 1)
    source.write_text(text, encoding="utf-8")
    assert main(["--check", str(tmp_path)]) == 1
    assert "is stale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"app": {"engine": {"treads": 2}}}, r"app\.yaml: app\.engine\.treads: Extra inputs"),
        ({"app": {"front": {"port": "eight"}}}, r"app\.front\.port"),
        ({"app": {}, "serve": {"autoscaling": {}}}, r"serve\.autoscaling: Extra"),
        ({"app": {}, "serve": {"proxy_port": 8999}}, "serve.proxy_port: Extra"),
        (
            {"app": {}, "serve": {"front": {"max_ongoing_requests": 4}}},
            "serve.front.max_ongoing_requests: Extra",
        ),
        ({"app": {"redis_url": "redis://:x@h:1"}}, "redis_url is a secret"),
        ({"app": {"signing_key": "x"}}, "signing_key is a secret"),
        ({"app": {}, "serve": {"replica": {"num_cpus": 1}}}, "serve.replica.num_cpus: Extra"),
        ({"serve": {}}, "app: Field required"),
        ([], "file: Input should be"),
    ],
)
def test_bad_overlay_configs_are_refused_with_their_place(tmp_path, content, complaint):
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        load_overlay_config(path)


def test_unreadable_overlay_configs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_overlay_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("app: [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_overlay_config(broken)


def test_command_prints_what_a_ray_without_kubernetes_needs(overlay, capsys):
    source = overlay / "app.yaml"
    assert main(["--print", str(source)]) == 0
    assert capsys.readouterr().out == render_serve_config(source)
    assert main(["--env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    flags = dict(line.removeprefix("export ").split("=") for line in lines)
    assert flags == dict(SERVE_ENVIRONMENT)


def test_command_needs_overlays(tmp_path):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])


def test_command_fails_on_a_bad_overlay(tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "app.yaml").write_text("app: {modle: x}", encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    assert "app.modle" in capsys.readouterr().err
