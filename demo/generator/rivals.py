"""Rivals that the demo's router must beat on human wordings."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from demo.generator.router_texts import FOLLOW_UP
from demo.generator.skills import GENERAL
from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.dlp.dlp_router import DlpRouter
from router_service.routers.base import RoutedMixture
from router_service.routers.features import tokenize
from router_service.routers.selection import SelectionConfig, renormalise, select

_MAX_TOKENS = 256


class AlwaysBase:
    """Leaves every text to the base: the likeliest class of the test file."""

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """Choose nothing but the base."""
        del text, allowed, earlier
        return RoutedMixture((), ())


class NaiveBayes:
    """Unigrams with add-one smoothing, on the data of the router, its follow-ups included."""

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self._counts = {
            label: Counter(word for text in group for word in tokenize(text, _MAX_TOKENS))
            for label, group in texts.items()
        }
        self._totals = {label: counts.total() for label, counts in self._counts.items()}
        self._words = len(set().union(*self._counts.values()))
        n = sum(len(group) for group in texts.values())
        self._priors = {label: math.log(len(group) / n) for label, group in texts.items()}

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """Choose the likeliest label alone; for a follow-up, that of the turn before."""
        label = GENERAL.name
        for turn in (*earlier, text):
            found = self._likeliest(turn)
            label = label if found == FOLLOW_UP else found
        alone = label != GENERAL.name and label in allowed
        return RoutedMixture(((label, 1.0),) if alone else (), ())

    def _likeliest(self, text: str) -> str:
        words = tokenize(text, _MAX_TOKENS)
        return max(self._priors, key=lambda label: self._log_probability(label, words))

    def _log_probability(self, label: str, words: Sequence[str]) -> float:
        counts, total = self._counts[label], self._totals[label] + self._words
        return self._priors[label] + sum(math.log((counts[w] + 1) / total) for w in words)


class Renormalising:
    """A DLP router as it was: the last turn alone, what is not allowed masked before the softmax.

    The base's share counts in selection and weights, and the router never abstains.
    """

    def __init__(self, router: DlpRouter) -> None:
        self._router = router

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """Choose the nucleus of the allowed candidates' renormalised probabilities."""
        del earlier
        scores = self._router.route(text, frozenset(self._router.candidates)).scores
        mine = [s for s in scores if s.alias in allowed]
        total = sum(s.probability for s in mine) or 1.0
        shares = [s.probability / total for s in mine]
        kept = select(shares, SelectionConfig())
        weights = renormalise([shares[index] for index in kept], "softmax_probabilities")
        return RoutedMixture(
            tuple(
                (mine[index].alias, weight)
                for index, weight in zip(kept, weights, strict=True)
                if mine[index].alias != BASE_ALIAS
            ),
            (),
        )
