"""A gate in which two names are one adapter: the engine would add both weights up, twice."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.config import RouterConfig
from cluster.errors import ConfigError
from router_service.artifacts.router_artifact import RouterManifest, save_artifact
from router_service.flow.flow_artifact import save_gate
from router_service.flow.flow_schema import KIND, FlowHyperparameters
from router_service.router_kinds import default_registry
from router_service.routers.base import Need
from router_service.routers.kind import RouterContext

TWICE = {"sql": "a" * 64, "query": "a" * 64}
SETTINGS = FlowHyperparameters(temperature=1.0, layers=2, hidden_size=4)


def test_it_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sql' and 'query' are the same adapter.* name it once"):
        save_gate(
            tmp_path / "gate",
            adapters=TWICE,
            hyperparameters=SETTINGS,
            base_digest="b",
            data_digest="d",
            weight=torch.zeros(2, 2, 4),
            bias=torch.zeros(2, 2),
        )
    assert not (tmp_path / "gate").exists()


@pytest.mark.parametrize("part", [False, True])
def test_one_of_other_hands_is_not_served(tmp_path: Path, part: bool) -> None:
    manifest = RouterManifest(
        kind=KIND,
        candidates=tuple(TWICE),
        adapter_digests=TWICE,
        hyperparameters=SETTINGS.model_dump(mode="json"),
        data_digest="d",
    )
    tensors = {"weight": np.zeros((2, 2, 4), np.float32), "bias": np.zeros((2, 2), np.float32)}
    save_artifact(tmp_path, manifest, tensors)
    context = RouterContext(frozenset(TWICE), max_mixture=8, provides=frozenset(Need))
    config = RouterConfig(name="both", path=tmp_path)
    registry = default_registry()
    build = registry.build_parts if part else registry.build_all
    with pytest.raises(ConfigError, match=r"router\.json: .*'sql' and 'query' are the same"):
        build([config], context)
