"""Pick rules that know nothing of costs."""

import math
import random

from cluster.domain.ids import ReplicaId
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.rendezvous import mixture_key, order
from cluster.simulation.baselines.open_replicas import candidates, least_loaded


class RandomPick:
    """Picks any replica: the least that a pick must be better than."""

    def __init__(self, front: int, seed: int) -> None:
        self._rng = random.Random(f"random pick {seed} {front}")

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return a replica, each equally likely."""
        replicas = candidates(view, request, now)
        return self._rng.choice(replicas).replica_id if replicas else None


class LeastLoadedPick:
    """Picks the replica with the fewest requests, at random among equal ones.

    So do the routers of most serving systems that know no adapters (for instance nginx's
    ``least_conn`` and vLLM's data-parallel load balancer).
    """

    def __init__(self, front: int, seed: int) -> None:
        self._rng = random.Random(f"least loaded pick {seed} {front}")

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return one of the least loaded replicas."""
        replicas = list(candidates(view, request, now))
        self._rng.shuffle(replicas)
        ranks = {replica.replica_id: rank for rank, replica in enumerate(replicas)}
        return least_loaded(replicas, ranks)


class BoundedRendezvousPick:
    """Picks the first replica of the set's rendezvous order that is not far above the mean load.

    Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018), as KubeAI
    routes by model, with rendezvous hashing in place of a ring. With n replicas and L requests one
    more may go where the load stays within ``ceil(bound * (L + 1) / n)``.
    """

    BOUND = 1.25

    def __init__(self, front: int, seed: int) -> None:
        del front, seed  # every front ranks replicas alike

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return the set's first replica within the bound."""
        replicas = {replica.replica_id: replica for replica in candidates(view, request, now)}
        if not replicas:
            return None
        total = sum(replica.load for replica in replicas.values())
        limit = math.ceil(self.BOUND * (total + 1) / len(replicas))
        ranked = order(mixture_key(request.digests), replicas)
        return next((r for r in ranked if replicas[r].load + 1 <= limit), ranked[0])
