"""Rendered overlays for the manifest tests, and the folder of their validators on the path."""

import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from k8s_validation import manifests

Documents = list[dict[str, Any]]


@pytest.fixture(scope="session")
def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed: no overlay was rendered")
    return found


@pytest.fixture(scope="session", params=manifests.OVERLAYS, ids=lambda path: path.name)
def overlay(request: pytest.FixtureRequest) -> Path:
    """The folder of each overlay in turn."""
    return request.param


@pytest.fixture
def rendered(kubectl: str, overlay: Path) -> Documents:
    """Return what ``kubectl apply -k`` would send for the overlay; a copy the test may break."""
    return deepcopy(manifests.render(kubectl, overlay))


@pytest.fixture
def rayservice(rendered: Documents) -> dict[str, Any]:
    return manifests.only(rendered, "RayService")


@pytest.fixture
def gpu_rendered(kubectl: str) -> Documents:
    """One overlay, for tests that need no other; a copy."""
    return deepcopy(manifests.render(kubectl, manifests.K8S / "overlays" / "gpu"))


@pytest.fixture
def gpu_rayservice(gpu_rendered: Documents) -> dict[str, Any]:
    """The RayService of one overlay, for tests that break it."""
    return manifests.only(gpu_rendered, "RayService")


@pytest.fixture(scope="session")
def crd_validator() -> Callable[[dict[str, Any]], list[str]]:
    from k8s_validation import schemas

    path = schemas.crd_path()
    if path is None:
        pytest.skip("no RayService CRD: set KUBERAY_CRD; only the project's own schema was checked")
    return schemas.crd_validator(path)
