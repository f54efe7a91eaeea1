"""Mixture of a tenant, who may use some of the candidates, from the probabilities of all."""

from collections.abc import Mapping, Sequence

from cluster.domain.decision import CandidateScore
from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.routers.base import WEIGHT_DECIMALS, RoutedMixture
from router_service.routers.selection import SelectionConfig, abstains, renormalise, select

_PROBABILITY_DECIMALS = 6


def choose_mixture(
    probabilities: Mapping[str, float], allowed: frozenset[str], selection: SelectionConfig
) -> RoutedMixture:
    """Choose among ``allowed``, with the probability of everything else given to the base.

    A prompt for an adapter that the tenant lacks is thereby the base's, and not that of whichever
    adapter is left.

    Args:
        probabilities: of every candidate in class order, summing to 1; the base may be missing.
        allowed: aliases of candidates; the base needs no permission.
        selection: which are kept, and how they share the weight.
    """
    adapters = [a for a in probabilities if a in allowed and a != BASE_ALIAS]
    base = sum(p for alias, p in probabilities.items() if alias not in adapters)
    likely = {
        alias: base if alias == BASE_ALIAS else p
        for alias, p in probabilities.items()
        if alias in adapters or alias == BASE_ALIAS
    }
    if base > 0 and BASE_ALIAS not in likely:
        likely[BASE_ALIAS] = base
    kept = _keep(likely, adapters, selection)
    if kept == [BASE_ALIAS]:
        likely.setdefault(BASE_ALIAS, 0.0)
        weights: dict[str, float] = {}
    else:
        weights = _weigh({alias: likely[alias] for alias in kept}, selection)
    return RoutedMixture(
        weights=tuple((alias, weights[alias]) for alias in adapters if weights.get(alias)),
        scores=tuple(
            CandidateScore(alias, round(p, _PROBABILITY_DECIMALS), kept=alias in kept)
            for alias, p in likely.items()
        ),
    )


def _keep(
    likely: Mapping[str, float], adapters: Sequence[str], selection: SelectionConfig
) -> list[str]:
    """Choose the aliases to keep, likeliest first; the base's alone if the router abstains."""
    likeliest = max((likely[alias] for alias in adapters), default=0.0)
    if not adapters or abstains(likeliest, likely.get(BASE_ALIAS, 0.0), selection):
        return [BASE_ALIAS]
    aliases = list(likely)
    return [aliases[index] for index in select(list(likely.values()), selection)]


def _weigh(kept: Mapping[str, float], selection: SelectionConfig) -> dict[str, float]:
    """Compute the rounded weights of the kept aliases; a base among adapters has a share if it
    dilutes."""
    sharing = [a for a in kept if a != BASE_ALIAS or selection.dilute]
    weights = renormalise([kept[alias] for alias in sharing], selection.renormalise)
    return {
        alias: round(weight, WEIGHT_DECIMALS)
        for alias, weight in zip(sharing, weights, strict=True)
    }
