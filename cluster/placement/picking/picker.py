"""Chooses the replica for a request: filters, weighted scores, rendezvous order for ties."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaChoice
from cluster.errors import BraidError, Overloaded, ReplicaLost
from cluster.placement.picking.cluster_view import ClusterView, ReplicaView
from cluster.placement.picking.filters import (
    Filter,
    Fresh,
    LoadBound,
    NotDraining,
    NotExcluded,
    PickRequest,
    QueueBound,
)
from cluster.placement.picking.scorers import (
    KvHeadroomScorer,
    LoadScorer,
    ResidencyScorer,
    Scorer,
    TenantScorer,
)
from cluster.placement.policy import PickingPolicy
from cluster.placement.rendezvous import mixture_key, weight

_TIE = 9  # decimals of a score; finer differences are rounding errors


@dataclass(frozen=True, slots=True)
class PickCandidate:
    """One replica as a pick saw it."""

    replica_id: ReplicaId
    refused_by: str | None  # name of the filter, or None
    score: float  # weighted mean, 0 where refused
    scores: tuple[tuple[str, float], ...]  # (scorer, value in [0, 1]), empty if refused
    load: int  # queued, running and on the way
    age: float  # seconds since it spoke


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explains why a replica was picked, or why none was."""

    digests: tuple[AdapterDigest, ...]
    chosen: ReplicaId | None
    candidates: tuple[PickCandidate, ...]  # best first, then the refused, by id
    passed_over: tuple[str, ...]  # soft filters that would have refused everybody

    @property
    def refusals(self) -> dict[str, int]:
        """Return the replicas refused, by filter."""
        counts: dict[str, int] = {}
        for candidate in self.candidates:
            if candidate.refused_by is not None:
                counts[candidate.refused_by] = counts.get(candidate.refused_by, 0) + 1
        return counts


class Picker:
    """Stateless: everything it knows comes with the call."""

    def __init__(
        self,
        policy: PickingPolicy,
        *,
        filters: Sequence[Filter] | None = None,
        scorers: Sequence[Scorer] | None = None,
    ) -> None:
        """Take ``filters`` and ``scorers`` in place of the standard ones.

        Raises:
            ValueError: a scorer has no weight in the policy.
        """
        self._filters: Sequence[Filter] = (
            filters if filters is not None else standard_filters(policy)
        )
        self._scorers: Sequence[Scorer] = (
            scorers
            if scorers is not None
            else (ResidencyScorer(), LoadScorer(), TenantScorer(), KvHeadroomScorer())
        )
        weights: Mapping[str, float] = policy.weights.model_dump()
        unweighted = [scorer.name for scorer in self._scorers if scorer.name not in weights]
        if unweighted:
            raise ValueError(f"scorers without a weight in the policy: {', '.join(unweighted)}")
        self._weights = weights

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaChoice:
        """Return the best replica for the request.

        Raises:
            Overloaded: replicas are there, but the queue of each is full.
            ReplicaLost: no replica can take requests.
        """
        explanation = self.explain(view, request, now)
        if explanation.chosen is None:
            raise _nobody(explanation)
        best = explanation.candidates[0]
        return ReplicaChoice(
            replica_id=best.replica_id,
            score=best.score,
            scores=best.scores,
            considered=sum(1 for c in explanation.candidates if c.refused_by is None),
            snapshot_age=best.age,
        )

    def explain(self, view: ClusterView, request: PickRequest, now: float) -> Explanation:
        """Return the pick with every candidate's scores and every refusal; never raises."""
        everyone = view.replicas(now, request.tenant)
        candidates: Sequence[ReplicaView] = everyone
        refused: dict[ReplicaId, str] = {}
        passed_over: list[str] = []
        for rule in self._filters:
            verdicts = rule.refused(candidates, request)
            if not rule.hard and all(verdicts):
                if candidates:
                    passed_over.append(rule.name)
                continue
            pairs = list(zip(candidates, verdicts, strict=True))
            refused.update({replica.replica_id: rule.name for replica, no in pairs if no})
            candidates = [replica for replica, no in pairs if not no]
        ranked = self._rank(candidates, request)
        out = [
            PickCandidate(r.replica_id, refused[r.replica_id], 0.0, (), r.load, r.age)
            for r in everyone
            if r.replica_id in refused
        ]
        return Explanation(
            digests=request.digests,
            chosen=ranked[0].replica_id if ranked else None,
            candidates=(*ranked, *out),
            passed_over=tuple(passed_over),
        )

    def _rank(self, replicas: Sequence[ReplicaView], request: PickRequest) -> list[PickCandidate]:
        columns = [
            (scorer.name, [_clamp(value) for value in scorer.score(replicas, request)])
            for scorer in self._scorers
        ]
        total_weight = sum(self._weights[name] for name, _ in columns) or 1.0
        key = mixture_key(request.digests)
        ranked = []
        for index, replica in enumerate(replicas):
            scores = tuple((name, values[index]) for name, values in columns)
            score = sum(self._weights[name] * value for name, value in scores) / total_weight
            ranked.append(
                PickCandidate(replica.replica_id, None, score, scores, replica.load, replica.age)
            )
        ranked.sort(key=lambda c: (-round(c.score, _TIE), -weight(key, c.replica_id), c.replica_id))
        return ranked


def standard_filters(policy: PickingPolicy) -> tuple[Filter, ...]:
    """Return the filters, hard ones first: soft ones then compare only those that can serve."""
    return (
        NotExcluded(),
        NotDraining(),
        QueueBound(policy.max_queued),
        Fresh(policy.stale_after_s),
        LoadBound(policy.load_bound, policy.load_slack),
    )


def _clamp(value: float) -> float:
    if math.isnan(value):
        return 0.0
    return min(1.0, max(0.0, value))


def _nobody(explanation: Explanation) -> BraidError:
    refusals = explanation.refusals
    if not refusals:
        return ReplicaLost("no replica is ready")
    listed = ", ".join(f"{count} {name}" for name, count in sorted(refusals.items()))
    if QueueBound.name in refusals:
        return Overloaded(f"no replica has room in its queue ({listed})")
    return ReplicaLost(f"no replica can take the request ({listed})")
