"""A broken manifest must fail, each for its own reason: these tests test the validators."""

from copy import deepcopy

import pytest
import yaml
from k8s_validation import manifests
from k8s_validation.operator_rules import operator_problems
from k8s_validation.schemas import core_problems, own_rayservice_problems, schema_problems
from k8s_validation.security_rules import security_problems
from k8s_validation.serve_rules import serve_config_problems

from deployments.serve_config import render_patch


def _cluster(rayservice: dict) -> dict:
    return rayservice["spec"]["rayClusterConfig"]


def _container(rayservice: dict, group: int = 0) -> dict:
    return _cluster(rayservice)["workerGroupSpecs"][group]["template"]["spec"]["containers"][0]


def _misspelt_spec_key(doc):
    doc["spec"]["serveConfig"] = doc["spec"].pop("serveConfigV2")


def _misspelt_cluster_key(doc):
    _cluster(doc)["enableIntreeAutoscaling"] = True


def _misspelt_group_key(doc):
    _cluster(doc)["workerGroupSpecs"][0]["minReplica"] = 1


def _misspelt_ft_key(doc):
    _cluster(doc)["gcsFaultToleranceOptions"]["redisAdress"] = "x:6379"


def _string_replicas(doc):
    _cluster(doc)["workerGroupSpecs"][0]["replicas"] = "two"


def _number_start_param(doc):
    _cluster(doc)["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _literal_password(doc):
    _cluster(doc)["gcsFaultToleranceOptions"]["redisPassword"] = "x"


SCHEMA_BREAKS = [
    (_misspelt_spec_key, "serveConfig"),
    (_misspelt_cluster_key, "enableIntreeAutoscaling"),
    (_misspelt_group_key, "minReplica"),
    (_misspelt_ft_key, "redisAdress"),
    (_string_replicas, "'two' is not of type 'integer'"),
    (_number_start_param, "0 is not of type 'string'"),
    (_literal_password, "'x' is not of type 'object'"),
]


@pytest.mark.parametrize(("break_it", "complaint"), SCHEMA_BREAKS)
def test_own_schema_refuses(gpu_rayservice, break_it, complaint):
    break_it(gpu_rayservice)
    assert complaint in "\n".join(own_rayservice_problems(gpu_rayservice))


@pytest.mark.parametrize(("break_it", "complaint"), SCHEMA_BREAKS)
def test_crd_refuses(gpu_rayservice, crd_validator, break_it, complaint):
    break_it(gpu_rayservice)
    assert complaint in "\n".join(crd_validator(gpu_rayservice))


def test_crd_refuses_a_misspelt_key_deep_in_a_pod(gpu_rayservice, crd_validator):
    _container(gpu_rayservice)["imagePullpolicy"] = "Always"
    assert "imagePullpolicy" in "\n".join(crd_validator(gpu_rayservice))


def _long_name(doc):
    doc["metadata"]["name"] = "b" * 48


def _bad_name(doc):
    doc["metadata"]["name"] = "1-braid"


def _both_resources(doc):
    _cluster(doc)["workerGroupSpecs"][0]["rayStartParams"]["num-cpus"] = "1"


def _start_labels(doc):
    _cluster(doc)["headGroupSpec"]["rayStartParams"]["labels"] = "a=b"


def _head_service_name(doc):
    _cluster(doc)["headGroupSpec"]["headService"] = {"metadata": {"name": "head"}}


def _upgrade_in_cluster(doc):
    _cluster(doc)["upgradeStrategy"] = {"type": "None"}


def _restart_policy(doc):
    _cluster(doc)["workerGroupSpecs"][0]["template"]["spec"]["restartPolicy"] = "Always"


def _redis_env(doc):
    container = _cluster(doc)["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "x:6379"})


def _redis_env_without_options(doc):
    _redis_env(doc)
    del _cluster(doc)["gcsFaultToleranceOptions"]


def _ft_annotation(doc):
    doc["metadata"]["annotations"] = {"ray.io/ft-enabled": "true"}


def _storage_namespace(doc):
    _cluster(doc)["gcsFaultToleranceOptions"]["externalStorageNamespace"] = "braid"


def _storage_without_rocksdb(doc):
    _cluster(doc)["gcsFaultToleranceOptions"]["storage"] = {"size": "1Gi"}


def _bounds_reversed(doc):
    _cluster(doc)["workerGroupSpecs"][0].update(minReplicas=5, maxReplicas=1)


def _no_bounds_without_autoscaler(doc):
    _cluster(doc)["enableInTreeAutoscaling"] = False
    del _cluster(doc)["workerGroupSpecs"][1]["maxReplicas"]


def _old_ray_with_token(doc):
    _cluster(doc)["rayVersion"] = "2.40.0"


def _network_policy(doc):
    _cluster(doc)["networkPolicy"] = {"mode": "DenyAll"}


def _sidecar_first(doc):
    containers = _cluster(doc)["headGroupSpec"]["template"]["spec"]["containers"]
    containers.insert(0, {"name": "sidecar", "image": "x:1"})


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (_long_name, "48 characters, at most 47"),
        (_bad_name, "not a DNS-1035 label"),
        (_both_resources, "front: resources are set in rayStartParams (num-cpus) and"),
        (_start_labels, "head: rayStartParams.labels"),
        (_head_service_name, "headService.metadata.name"),
        (_upgrade_in_cluster, "upgradeStrategy: belongs"),
        (_restart_policy, "front: restartPolicy"),
        (_redis_env, "env RAY_REDIS_ADDRESS"),
        (_redis_env_without_options, "needs gcsFaultToleranceOptions"),
        (_ft_annotation, "annotation ray.io/ft-enabled"),
        (_storage_namespace, "externalStorageNamespace"),
        (_storage_without_rocksdb, "only with backend rocksdb"),
        (_bounds_reversed, "minReplicas 5 and maxReplicas 1"),
        (_no_bounds_without_autoscaler, "replica: minReplicas and maxReplicas are needed"),
        (_old_ray_with_token, "token needs rayVersion"),
        (_network_policy, "feature gates"),
        (_sidecar_first, "head: the Ray container must be the first"),
    ],
)
def test_operator_rules_refuse(gpu_rayservice, break_it, complaint):
    break_it(gpu_rayservice)
    assert complaint in "\n".join(operator_problems(gpu_rayservice))


def _edit_serve_config(rayservice: dict, edit) -> str:
    config = yaml.safe_load(rayservice["spec"]["serveConfigV2"])
    edit(config)
    return yaml.safe_dump(config)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda c: c.update(http_option={}), "serveConfigV2.http_option: unknown key"),
        (lambda c: c.update(http_options={"prot": 1}), "http_options.prot: unknown key"),
        (
            lambda c: c["applications"][0]["deployments"][0].update(num_replica=2),
            "applications[0].deployments[0].num_replica: unknown key",
        ),
        (
            lambda c: c["applications"][0]["deployments"][1].update(
                autoscaling_config={"min_replicas": 1}
            ),
            "external_scaler_enabled is set to True, but",
        ),
        (
            lambda c: c["applications"][0]["deployments"][0]["ray_actor_options"].update(gpus=1),
            "ray_actor_options.gpus: unknown key",
        ),
        (lambda c: c.update(http_options={"port": "no"}), "http_options.port"),
        (lambda c: c.update(proxy_location="Nowhere"), "proxy_location"),
        (lambda c: c["applications"][0].update(import_path="deployments"), "import_path"),
        (lambda c: c["applications"][0]["args"].update(modle="x"), "args.modle: Extra inputs"),
        (
            lambda c: c["applications"][0]["args"]["engine"].update(dtype="int4"),
            "args.engine.dtype",
        ),
    ],
)
def test_serve_rules_refuse(gpu_rayservice, edit, complaint):
    text = _edit_serve_config(gpu_rayservice, edit)
    assert complaint in "\n".join(serve_config_problems(text))


def test_a_changed_config_that_was_not_regenerated_shows(tmp_path):
    folder = manifests.K8S / "overlays" / "gpu"
    changed = yaml.safe_load((folder / "app.yaml").read_text(encoding="utf-8"))
    changed["app"]["engine"]["max_batch_size"] += 1
    copy = tmp_path / "app.yaml"
    copy.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    committed = (folder / "serve-config.patch.yaml").read_text(encoding="utf-8")
    assert render_patch(copy) != committed


@pytest.mark.parametrize(
    ("kind", "edit", "complaint"),
    [
        ("PodDisruptionBudget", lambda s: s.update(minAvailible=1), "minAvailible"),
        ("StatefulSet", lambda s: s.update(replicas="1"), "'1' is not of type"),
        ("NetworkPolicy", lambda s: s.update(podSelectors={}), "podSelectors"),
    ],
)
def test_core_schemas_refuse(rendered, kind, edit, complaint):
    found = [doc for doc in rendered if doc["kind"] == kind]
    document = found[0]
    assert core_problems(document) == []
    edit(document["spec"])
    assert complaint in "\n".join(core_problems(document))


def test_unknown_kinds_are_refused():
    document = {"apiVersion": "braid/v1", "kind": "Adapter", "metadata": {"name": "x"}}
    assert "Couldn't find schema" in "\n".join(schema_problems(document))


def test_repeated_keys_are_refused():
    with pytest.raises(yaml.constructor.ConstructorError, match="written twice"):
        manifests.parse("spec: {replicas: 1, replicas: 2}")


def _no_limits(container):
    del container["resources"]["limits"]


def _root_user(container):
    container["securityContext"]["allowPrivilegeEscalation"] = True


def _latest(container):
    container["image"] = "registry:5000/braid-serve:latest"


def _untagged(container):
    container["image"] = "registry:5000/braid-serve"


def _env_secret(container):
    container["env"].append({"name": "BRAID_SIGNING_KEY", "value": "x"})


def _url_secret(container):
    container["env"].append({"name": "STORE", "value": "redis://:hunter2@store:6379/0"})


def _no_probe(container):
    del container["livenessProbe"]


def _writable(container):
    container["securityContext"]["readOnlyRootFilesystem"] = False


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (_no_limits, "no limits for memory"),
        (_root_user, "allowPrivilegeEscalation"),
        (_latest, "is not pinned"),
        (_untagged, "is not pinned"),
        (_env_secret, "BRAID_SIGNING_KEY is a literal"),
        (_url_secret, "a password inside"),
        (_no_probe, "no livenessProbe"),
        (_writable, "root file system"),
    ],
)
def test_security_rules_refuse(gpu_rayservice, break_it, complaint):
    sound = deepcopy(gpu_rayservice)
    break_it(_container(gpu_rayservice, 1))
    assert security_problems([sound]) == []
    assert complaint in "\n".join(security_problems([gpu_rayservice]))


def test_security_rules_refuse_root_and_committed_secrets(gpu_rayservice):
    pod = _cluster(gpu_rayservice)["headGroupSpec"]["template"]["spec"]
    del pod["securityContext"]["runAsNonRoot"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "braid-secrets"}}
    problems = "\n".join(security_problems([gpu_rayservice, secret]))
    assert "head: runAsNonRoot with a user id is missing" in problems
    assert "Secret/braid-secrets: secrets are not kept" in problems
