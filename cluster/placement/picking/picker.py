"""Chooses the replica for a request: filters, then the least cost in seconds."""

import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.replica import DecidedBy, PickCandidate, PickExplanation, ReplicaChoice
from cluster.errors import BraidError, Overloaded, ReplicaLost, RequestError
from cluster.placement.picking.candidates import MOST, candidates
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.cost import PickNeeds, Terms, cost_of, load_seconds
from cluster.placement.picking.filters import (
    BesidePins,
    Filter,
    FitsContext,
    Fresh,
    HasGates,
    LoadGuard,
    Moment,
    NotDraining,
    NotExcluded,
    NotFailed,
    NotLeaving,
    PickRequest,
    QueueBound,
)
from cluster.placement.picking.replica_view import ReplicaView
from cluster.placement.policy import PickingPolicy
from cluster.placement.rendezvous import mixture_key, weight

TIE_SHARE = 0.05
TIE_S = 0.010
"""Costs that differ by less than this, or by less than ``TIE_SHARE``, are alike."""


@dataclass(slots=True)
class _Pick:
    """A pick in the making."""

    passed: list[ReplicaView]
    softly: list[ReplicaView]  # refused by soft filters alone
    refused: dict[ReplicaView, str]
    terms: dict[ReplicaView, Terms] = field(default_factory=dict)  # of those above, where known
    chosen: ReplicaView | None = None
    decided_by: DecidedBy = "cost"


class Picker:
    """Remembers nothing: all that it knows comes with the call.

    Args:
        policy: bound and weights; ``follow`` replaces it.
        rng: for the few candidates and the last resort that are left to chance.
        most: candidates that are compared.
    """

    def __init__(
        self, policy: PickingPolicy, *, rng: random.Random | None = None, most: int = MOST
    ) -> None:
        self._rng = rng or random.Random(0)
        self._most = most
        self.follow(policy)

    def follow(self, policy: PickingPolicy) -> None:
        """Pick by another policy from now on."""
        self.policy = policy
        self._filters = standard_filters(policy)
        self._queue = QueueBound(policy.max_queued)

    def has_room(self, replica: ReplicaView, tenant: TenantId | None = None) -> bool:
        """Report whether the replica takes another request, as far as it is up to the replica.

        Args:
            tenant: one that has nothing there is taken beyond the queue's bound.
        """
        return not replica.snapshot.draining and not self._queue.is_full(replica, tenant)

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaChoice:
        """Return the best replica for the request; ``now`` in the view's monotonic seconds.

        Raises:
            Overloaded: replicas are there, but the queue of each is full.
            ReplicaLost: no replica can take requests.
            RequestError: no replica computes what the request's router decides.
        """
        pick = self._pick(view, request, now)
        chosen = pick.chosen
        if chosen is None:
            raise _nobody(Counter(pick.refused.values()))
        terms = pick.terms[chosen]
        return ReplicaChoice(
            replica_id=chosen.replica_id,
            cost=terms.cost,
            terms=terms.named(),
            predicted_ttft=terms.ttft,
            whole=holds_all(chosen, request),
            decided_by=pick.decided_by,
            considered=len(pick.passed),
            snapshot_age=chosen.age(now),
            explanation=_explain(view, request, pick, now) if request.explain else None,
        )

    def explain(self, view: ClusterView, request: PickRequest, now: float) -> PickExplanation:
        """Return the pick with the candidates' costs and refusals; never raises."""
        return _explain(view, request, self._pick(view, request, now), now)

    def _pick(self, view: ClusterView, request: PickRequest, now: float) -> _Pick:
        policy, moment = self.policy, view.moment(now)
        asked = view.asked(request, harm=policy.harm, prefix=policy.prefix, now=now)
        key = mixture_key(request.digests)
        few = candidates(view, asked, key, request.exclude, self._rng, self._most)
        pick = self._filter(few, request, moment)
        if not pick.passed and len(few) < len(view):
            pick = self._filter(view.replicas(), request, moment)
        if pick.passed:
            pick.terms = {r: cost_of(r, asked, view.model) for r in (*pick.passed, *pick.softly)}
            _choose(pick, request.digests, key, _keepers(view, pick, asked, key))
        elif pick.softly:
            two = self._rng.sample(pick.softly, min(2, len(pick.softly)))
            pick.terms = {r: cost_of(r, asked, view.model) for r in two}
            pick.chosen = min(two, key=lambda replica: pick.terms[replica].cost)
            pick.decided_by = "random"
        return pick

    def _filter(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> _Pick:
        """Apply the hard filters, then the soft ones to those that are left."""
        passed = list(replicas)
        refused: dict[ReplicaView, str] = {}
        softly: list[ReplicaView] = []
        for rule in self._filters:
            verdicts = rule.refused(passed, request, moment)
            if any(verdicts):
                out = [r for r, no in zip(passed, verdicts, strict=True) if no]
                refused.update(dict.fromkeys(out, rule.name))
                if not rule.hard:
                    softly += out
                passed = [r for r, no in zip(passed, verdicts, strict=True) if not no]
        return _Pick(passed, softly, refused)


def standard_filters(policy: PickingPolicy) -> tuple[Filter, ...]:
    """Return the filters, hard ones first."""
    return (
        NotExcluded(),
        NotDraining(),
        QueueBound(policy.max_queued),
        FitsContext(),
        HasGates(),
        NotLeaving(),
        Fresh(),
        NotFailed(),
        BesidePins(),
        LoadGuard(policy.bound),
    )


def _choose(
    pick: _Pick, digests: Sequence[AdapterDigest], key: str, among: Sequence[ReplicaView]
) -> None:
    """Choose among those that cost about as much as the cheapest.

    Those that are to have the set come first, of these who is to have the fewest adapters, then the
    first in the set's order.
    """
    terms = pick.terms
    least = min([terms[replica].cost for replica in among])
    limit = least + max(TIE_S, TIE_SHARE * least)
    alike = [replica for replica in among if terms[replica].cost <= limit]
    pick.chosen = alike[0] if len(alike) == 1 else min(alike, key=lambda r: _rank(digests, key, r))
    cost = terms[pick.chosen].cost
    if any(terms[replica].cost < cost - TIE_S for replica in pick.softly):
        pick.decided_by = "guard"
    elif len(alike) > 1 or len(among) < len(pick.passed):
        pick.decided_by = "home"


def _rank(
    digests: Sequence[AdapterDigest], key: str, replica: ReplicaView
) -> tuple[int, int, ReplicaId]:
    desired = replica.desired
    placed = len(desired) if digests and desired.issuperset(digests) else sys.maxsize
    return placed, -weight(key, replica.replica_id), replica.replica_id


def _keepers(view: ClusterView, pick: _Pick, asked: PickNeeds, key: str) -> Sequence[ReplicaView]:
    """Return those that a set is kept to where it has to be loaded, so that it does not scatter.

    They are its homes, and those that have its rarest member in any tier. Where they cost more than
    the cheapest by more than a load of the set, which another copy takes, none is preferred. Nor
    are homes that would have to evict something while others would not.
    """
    terms, passed, members = pick.terms, pick.passed, asked.members
    if not members or len(passed) == 1:
        return passed
    costs = [terms[replica].cost for replica in passed]
    least = min(costs)
    if not terms[passed[costs.index(least)]].load:
        return passed
    digests = [digest for digest, _ in members]
    rarest = min(digests, key=view.copies) if len(digests) > 1 else digests[0]
    holders, on_host = view.holders.of(rarest), view.host_holders.of(rarest)
    limit = least + load_seconds(members, view.model)
    near = [r for r, cost in zip(passed, costs, strict=True) if cost <= limit]
    kept = [r for r in near if r in holders or r in on_host]
    if homes := view.homes_of(digests, key):
        full = not any(_has_slots(r, digests) for r in passed)
        kept += [
            r
            for r in near
            if r.replica_id in homes and (full or _has_slots(r, digests)) and r not in kept
        ]
    return kept or passed


def _has_slots(replica: ReplicaView, digests: Sequence[AdapterDigest]) -> bool:
    """Report whether free slots are enough for those that are not on the device."""
    return replica.free_slots >= sum(digest not in replica.held for digest in digests)


def holds_all(replica: ReplicaView, request: PickRequest) -> bool:
    """Report whether all of the request's adapters are on the replica's device."""
    held = replica.held
    return all(
        digest in held and held[digest].state is AdapterState.READY for digest in request.digests
    )


def _explain(view: ClusterView, request: PickRequest, pick: _Pick, now: float) -> PickExplanation:
    def candidate(replica: ReplicaView) -> PickCandidate:
        terms = pick.terms.get(replica)
        return PickCandidate(
            replica_id=replica.replica_id,
            refused_by=pick.refused.get(replica),
            cost=None if terms is None else terms.cost,
            terms=() if terms is None else terms.named(),
            load=replica.load,
            age=replica.age(now),
        )

    chosen = None if pick.chosen is None else pick.chosen.replica_id
    candidates = sorted(
        (candidate(replica) for replica in (*pick.passed, *pick.refused)),
        key=lambda c: (
            c.replica_id != chosen,
            c.refused_by is not None,
            c.cost or 0.0,
            c.replica_id,
        ),
    )
    return PickExplanation(request.digests, chosen, pick.decided_by, tuple(candidates), len(view))


def _nobody(refusals: Mapping[str, int]) -> BraidError:
    if not refusals:
        return ReplicaLost("no replica is ready")
    if refusals.keys() == {HasGates.name}:
        return RequestError(
            "this router weighs adapters inside the model, for each token or layer, and the "
            "engines of all replicas (engine.kind 'vllm') cannot; use another router, or replicas "
            "of kind 'braid'",
            param="model",
        )
    listed = ", ".join(f"{count} {name}" for name, count in sorted(refusals.items()))
    if QueueBound.name in refusals:
        return Overloaded(f"no replica has room in its queue ({listed})")
    return ReplicaLost(f"no replica can take the request ({listed})")
