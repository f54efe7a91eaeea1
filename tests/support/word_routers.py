"""Routers that keep the candidates whose alias is a word of the text."""

from cluster.domain.decision import CandidateScore, Granularity
from router_service.request_decision import RequestDecision
from router_service.routers.base import Declaration, Need, RoutedMixture, RouterFailed, Stage
from router_service.routers.sentences import SentenceConfig, last_full_sentences


class WordRouter:
    """Keeps the allowed candidates whose alias is a word of the text, in equal parts."""

    declares = Declaration(
        stage=Stage.TEXT, granularity=Granularity.REQUEST, needs=frozenset({Need.TEXT})
    )
    candidates = ("", "cron", "json", "sql")

    def __init__(self, name: str = "words", version: str = "v1") -> None:
        self.name = name
        self.version = version
        self.texts: list[str] = []

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        self.texts.append(text)
        if "fail" in text:
            raise RouterFailed("told to")
        kept = [alias for alias in self.candidates if alias in allowed & set(text.split())]
        share = round(1 / len(kept), 4) if kept else 0.0
        return RoutedMixture(
            tuple((alias, share) for alias in kept),
            tuple(CandidateScore(a, share, kept=a in kept) for a in sorted(allowed)),
        )


class WholePromptRouter(WordRouter):
    """Leaves the rest of the decision to prefill."""

    declares = Declaration(
        stage=Stage.PREFILL,
        granularity=Granularity.PROMPT,
        needs=frozenset({Need.PROMPT_HIDDEN}),
        causal=False,
    )


class SentenceWords(WordRouter):
    """Reads the last sentence of the answer alone, if there is one."""

    declares = Declaration(
        stage=Stage.SENTENCE, granularity=Granularity.SENTENCE, needs=frozenset({Need.TEXT})
    )
    sentences = SentenceConfig(min_characters=3)

    def reading(self, prompt: str, answer: str) -> str:
        return last_full_sentences(answer, 1, self.sentences) or prompt

    def reroute(self, prompt: str, answer: str, allowed: frozenset[str]) -> RoutedMixture:
        return self.route(self.reading(prompt, answer).rstrip("."), allowed)


def weights_of(decided: RequestDecision) -> dict[str, float]:
    """Return the weights by alias."""
    return {term.key.alias: term.weight for term in decided.decision.mixture}
