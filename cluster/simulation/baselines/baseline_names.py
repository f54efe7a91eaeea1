"""All baselines that have a name, as changes of a simulation's description."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cluster.simulation.baselines.counts import FixedCount, PodAutoscalerCount, RayServeCount
from cluster.simulation.baselines.picks import BoundedRendezvousPick, LeastLoadedPick, RandomPick
from cluster.simulation.baselines.slots import ProportionalSlotsPick
from cluster.simulation.spec import PickRuleFactory, SimulationSpec


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way to serve the same trace without a part of Braid's."""

    name: str
    what: str
    change: Callable[[SimulationSpec], SimulationSpec]  # makes rules of its own at each call


def without_placement(spec: SimulationSpec) -> SimulationSpec:
    """Place nothing: requests alone bring adapters in, and replicas' pools evict by themselves."""
    placement = spec.policy.placement.model_copy(update={"mode": "off"})
    return replace(spec, policy=spec.policy.model_copy(update={"placement": placement}))


def with_picker(spec: SimulationSpec, picker: PickRuleFactory) -> SimulationSpec:
    """Pick by another rule, and place nothing."""
    return replace(without_placement(spec), picker=picker)


def _random(spec: SimulationSpec) -> SimulationSpec:
    return with_picker(spec, RandomPick)


def _least_loaded(spec: SimulationSpec) -> SimulationSpec:
    return with_picker(spec, LeastLoadedPick)


def _rendezvous(spec: SimulationSpec) -> SimulationSpec:
    return with_picker(spec, BoundedRendezvousPick)


def _slots(spec: SimulationSpec) -> SimulationSpec:
    return with_picker(spec, ProportionalSlotsPick)


def _ray_serve(spec: SimulationSpec) -> SimulationSpec:
    return replace(spec, scaler=RayServeCount())


def _ray_serve_fitted(spec: SimulationSpec) -> SimulationSpec:
    return replace(spec, scaler=RayServeCount(target=fitted_target(spec)))


def _pod_autoscaler(spec: SimulationSpec) -> SimulationSpec:
    return replace(spec, scaler=PodAutoscalerCount(target=fitted_target(spec)))


def _fixed(spec: SimulationSpec) -> SimulationSpec:
    return replace(spec, scaler=FixedCount(spec.replicas))


def fitted_target(spec: SimulationSpec) -> float:
    """Return the requests of a replica at which it is as busy as the policy wants.

    The batch is the most that a replica can run at once; the policy's utilisation of it is what an
    operator who scales by requests would set.
    """
    return max(1.0, spec.policy.replicas.target * spec.shape.engine.max_batch_size)


BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline("off", "Braid's pick and count, and no placement", without_placement),
        Baseline("random", "any replica, no placement", _random),
        Baseline("least-loaded", "fewest requests, no placement", _least_loaded),
        Baseline("rendezvous", "rendezvous hashing with bounded load, no placement", _rendezvous),
        Baseline("slots", "slots in proportion to load, as NVIDIA Dynamo allots them", _slots),
        Baseline("ray-serve", "Ray Serve's default count: 2 requests a replica", _ray_serve),
        Baseline(
            "ray-serve-fitted",
            "Ray Serve's count at the policy's utilisation of a batch",
            _ray_serve_fitted,
        ),
        Baseline(
            "hpa", "Kubernetes' pod autoscaler at that utilisation of a batch", _pod_autoscaler
        ),
        Baseline("fixed", "always as many replicas as at the start", _fixed),
    )
}
