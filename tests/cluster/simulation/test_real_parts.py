"""The simulator runs the cluster's own parts: it has no copy of their code, and no machine's."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cluster.simulation
from cluster.adapters.residency.manager import AdapterManager
from cluster.engine.scheduling.admission_order import AdmissionOrder
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.placement.control.drain import leaving_order
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.picker import Picker
from cluster.simulation.parts import controller, front, front_reports, front_rules, simulated_serve
from cluster.simulation.replica import engine_exact, fast_batch, simulated_replica
from tools.python_syntax import parse_python

FOLDER = Path(cluster.simulation.__file__).parent
HERE: set[tuple[ModuleType, type | Callable[..., Any]]] = {
    (controller, Reconciler),
    (front, ClusterView),
    (front_reports, DemandCounters),
    (front_rules, Picker),
    (simulated_serve, leaving_order),
    (engine_exact, Scheduler),
    (engine_exact, BlockPool),
    (fast_batch, AdmissionOrder),
    (simulated_replica, AdapterManager),
}


def test_every_real_part_is_the_clusters_own() -> None:
    for module, part in HERE:
        assert getattr(module, part.__name__) is part


def test_no_class_of_the_cluster_is_defined_again() -> None:
    def classes(folder: Path) -> set[str]:
        return {
            node.name
            for path in folder.rglob("*.py")
            for node in ast.walk(parse_python(path.read_text()))
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        }

    root = FOLDER.parent
    others = [path for path in root.iterdir() if path.is_dir() and path != FOLDER]
    assert not classes(FOLDER) & set().union(*map(classes, others))


def test_simulating_needs_no_tensors_no_cluster_and_no_store() -> None:
    program = (
        "import sys, cluster.simulation.simulate\n"
        "print([m for m in ('torch', 'ray', 'redis', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
