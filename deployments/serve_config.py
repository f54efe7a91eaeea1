"""Makes the Serve config file of an overlay from its ``k8s/overlays/<name>/app.yaml``.

The overlay's app.yaml holds the application's own typed config (``app``) and how Serve runs it
(``serve``). The config file that KubeRay hands to Serve is generated from both into a kustomize
patch, which is committed; a test fails when the two disagree. Regenerate with
``python -m deployments.serve_config``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from cluster.config import AppConfig, Section
from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from deployments.serve_env import SERVE_ENVIRONMENT

APP_IMPORT_PATH = "deployments.app:build_app"
RAYSERVICE_NAME = "braid"
PATCH_NAME = "serve-config.patch.yaml"
_PATCH_HEADER = "# Generated from app.yaml by `python -m deployments.serve_config`; do not edit.\n"


class DeploymentOptions(Section):
    """Serve's options for the replicas of one deployment; unset means the deployment's own."""

    graceful_shutdown_timeout_s: Annotated[float, Field(ge=0)] | None = None
    """Time a deployment has to stop by itself before its processes are killed."""
    health_check_period_s: Annotated[float, Field(gt=0)] | None = None
    health_check_timeout_s: Annotated[float, Field(gt=0)] | None = None


class ServeOptions(Section):
    """The ``serve`` part of an overlay's app.yaml."""

    front: DeploymentOptions = DeploymentOptions()
    replica: DeploymentOptions = DeploymentOptions()
    controller: DeploymentOptions = DeploymentOptions()


class OverlayConfig(Section):
    """One overlay's app.yaml."""

    app: AppConfig
    serve: ServeOptions = ServeOptions()

    @model_validator(mode="after")
    def _secrets_are_elsewhere(self) -> "OverlayConfig":
        for name in ("redis_url", "signing_key"):
            if getattr(self.app, name) is not None:
                raise ValueError(f"app.{name} is a secret; it comes from the environment")
        return self


def load_overlay_config(path: Path) -> OverlayConfig:
    """Read an overlay's app.yaml.

    Raises:
        ConfigError: unreadable, not YAML, an unknown key, or a bad value; names file and key.
    """
    try:
        return OverlayConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {all_problems(error, root='file')}") from error


def serve_config(config: OverlayConfig) -> dict[str, Any]:
    """Return Serve's deploy config (the fields of Ray's ``ServeDeploySchema``)."""
    app, options = config.app, config.serve
    return {
        # Clients' requests reach the fronts' own servers; Serve only runs the processes.
        "proxy_location": "Disabled",
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [
            {
                "name": "braid",
                # Absent would be "/".
                "route_prefix": None,
                "import_path": APP_IMPORT_PATH,
                # The application's controller sets how many replicas run.
                "external_scaler_enabled": True,
                "args": app.model_dump(mode="json", exclude_unset=True),
                "deployments": [
                    {
                        "name": "Front",
                        "num_replicas": app.front.replicas,
                        **_deployment(options.front),
                        "ray_actor_options": _resources(0, 0, app.front.resources),
                    },
                    {
                        "name": "Replica",
                        **_deployment(options.replica),
                        "ray_actor_options": _resources(
                            app.replica.num_cpus, app.replica.num_gpus, app.replica.resources
                        ),
                    },
                    {
                        "name": "Controller",
                        "num_replicas": 1,
                        **_deployment(options.controller),
                        "ray_actor_options": _resources(0, 0, app.controller.resources),
                    },
                ],
            }
        ],
    }


def render_serve_config(path: Path) -> str:
    """Return the Serve config of the overlay whose app.yaml is at ``path``, as YAML text."""
    return yaml.safe_dump(serve_config(load_overlay_config(path)), sort_keys=False, width=100)


def render_patch(path: Path) -> str:
    """Return the kustomize patch that carries the Serve config of the app.yaml at ``path``."""
    indented = "".join(f"    {line}\n" for line in render_serve_config(path).splitlines())
    return (
        f"{_PATCH_HEADER}"
        "apiVersion: ray.io/v1\n"
        "kind: RayService\n"
        "metadata:\n"
        f"  name: {RAYSERVICE_NAME}\n"
        "spec:\n"
        f"  serveConfigV2: |\n{indented}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write every overlay's patch, or with ``--check`` only compare; 1 when one is stale.

    ``--print`` gives one app.yaml's Serve config, ``--env`` Serve's flags, for a Ray without
    Kubernetes instead.
    """
    parser = argparse.ArgumentParser(prog="python -m deployments.serve_config")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; fail when stale")
    what.add_argument("--print", type=Path, metavar="APP_YAML", help="print its Serve config")
    what.add_argument("--env", action="store_true", help="print Serve's flags for a shell")
    parser.add_argument("overlays", nargs="?", type=Path, default=Path("k8s/overlays"))
    options = parser.parse_args(argv)
    try:
        if options.print is not None:
            print(render_serve_config(options.print), end="")
        elif options.env:
            for name, value in SERVE_ENVIRONMENT.items():
                print(f"export {name}={value}")
        else:
            return _update_patches(parser, options.overlays, options.check)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _update_patches(parser: argparse.ArgumentParser, overlays: Path, check: bool) -> int:
    sources = sorted(overlays.glob("*/app.yaml"))
    if not sources:
        parser.error(f"no */app.yaml under {overlays}")
    stale = 0
    for source in sources:
        target = source.with_name(PATCH_NAME)
        text = render_patch(source)
        current = target.read_text(encoding="utf-8") if target.exists() else None
        if current == text:
            continue
        stale += 1
        if check:
            print(f"{target} is stale", file=sys.stderr)
        else:
            target.write_text(text, encoding="utf-8")
            print(f"wrote {target}")
    return 1 if check and stale else 0


def _deployment(options: DeploymentOptions) -> dict[str, Any]:
    return options.model_dump(exclude_none=True)


def _resources(cpus: float, gpus: float, custom: dict[str, float]) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
    if custom:
        options["resources"] = dict(custom)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
