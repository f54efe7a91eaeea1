"""The simulator runs the cluster's own parts: it has no copy of their code, and no machine's."""

import ast
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType

import pytest

import cluster.simulation
from cluster.adapters.residency.host_tier import HostTier
from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.pool import AdapterPool
from cluster.engine import factory
from cluster.engine.scheduling.admission_order import AdmissionOrder
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.fair_queue import FairQueue
from cluster.engine.scheduling.prefixes import PrefixCache
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.placement.control import reconciler
from cluster.placement.control.placing import Placing
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.cost.fit import CostFit
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.rates import DemandRates
from cluster.placement.front_reporter import FrontReporter
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.picker import Picker
from cluster.placement.picking.waiting_line import WaitingLine
from cluster.placement.planning.planner import plan
from cluster.placement.scaling.count import CountScaler
from cluster.simulation.parts.simulated_cluster import SimulatedCluster
from cluster.tenancy.waiting_places import WaitingPlaces
from cluster.waiting.first_replica import FirstReplica
from cluster.waiting.holding import Holding
from cluster.waiting.queue_room import QueueRoom
from deployments.controller import control_loop
from deployments.front import replica_setup
from deployments.front.replicas import replica_set
from deployments.front.requests import exchange, front_demand
from deployments.replica import replica
from tests.support.small_traces import TraceMaker, spec_of
from tools.python_syntax import parse_python

FOLDER = Path(cluster.simulation.__file__).parent
BY_THE_CLUSTER: dict[type, ModuleType] = {
    AdapterManager: replica,
    BlockPool: factory,
    ClusterView: replica_set,
    DemandCounters: front_demand,
    FirstReplica: replica_set,
    FrontReporter: exchange,
    Holding: replica_setup,
    Picker: replica_setup,
    QueueRoom: replica_set,
    Reconciler: control_loop,
    Scheduler: factory,
    WaitingPlaces: replica_set,
}
"""Each part, and the module that makes it in a cluster."""
WITHIN: tuple[type, ...] = (
    AdmissionOrder,
    AdapterPool,
    CostFit,
    CountScaler,
    DemandRates,
    FairQueue,
    HostTier,
    Placing,
    PrefixCache,
    WaitingLine,
)
"""Parts that those make."""


def objects_of(root: object) -> Iterator[object]:
    """Yield all that an object holds, however deep; of functions what they enclose."""
    seen, left = {id(root)}, [root]
    while left:
        found = left.pop()
        yield found
        held = (
            list(found.__closure__ or ())
            if isinstance(found, FunctionType)
            else gc.get_referents(found)
        )
        for one in held:
            is_code = isinstance(one, type | ModuleType | BuiltinFunctionType)
            if id(one) not in seen and not is_code:
                seen.add(id(one))
                left.append(one)


@pytest.fixture(scope="module")
def simulated() -> set[type]:
    """The types of all that a simulated cluster consists of."""
    trace = TraceMaker(1).serve([("acme", ("a0", "a1"), 2.0)], 5).requests
    made = SimulatedCluster(spec_of(trace, 2, engine="exact"), None)
    try:
        made.run()
        return {type(one) for one in objects_of(made)}
    finally:
        made.close()


@pytest.mark.parametrize("part", [*BY_THE_CLUSTER, *WITHIN])
def test_a_simulated_cluster_consists_of_real_parts(part: type, simulated: set[type]) -> None:
    assert part in simulated


@pytest.mark.parametrize("part", BY_THE_CLUSTER)
def test_a_cluster_is_made_of_the_same_parts(part: type) -> None:
    assert getattr(BY_THE_CLUSTER[part], part.__name__) is part


def test_both_plan_by_the_same_function() -> None:
    assert vars(reconciler)["plan"] is plan
    assert vars(control_loop)["plan"] is plan


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
