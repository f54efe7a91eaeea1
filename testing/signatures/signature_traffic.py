"""Random requests whose every token is checked, while names change.

Each version repeats a token of its own, which the reference confirmed before, so an answer shows
whose weights made each of its tokens.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from testing.signatures.churn import Churn, Made
from testing.signatures.name_book import NameBook
from testing.signatures.signature_maker import TEXTS, SignatureMaker, Voice, tar_of
from testing.timed_request import Reply, ask

TENANTS = ("acme", "globex")
MIXTURE_SHARE = 0.1
REMOVED_SHARE = 0.03
"""Of the requests that ask for a name which was removed before."""
FAINT = 1e-6
"""Weight of a mixture's second adapter: too little to be heard with the first, as the reference
confirms for the loudest on the last layer."""
RANKS = (1, 4, 8, 16)
LOUDNESS = (1.0, 2.0, 4.0, 8.0)
"""Weights that a slot kept from a louder one before would be heard."""
LONGEST = 4
SHOWN = 10
"""Problems of each sort that are written out."""


@dataclass(frozen=True, slots=True)
class SignatureAsked:
    """One request and its answer."""

    names: tuple[str, ...]  # the first one is heard
    prompt: str
    tokens: int
    reply: Reply


@dataclass
class Tally:
    """Counts of the answers."""

    served: int = 0
    tokens: int = 0
    unclear: int = 0  # the reference does not say the signature there either
    raced: int = 0  # their name changed while they were under way
    cached_tokens: int = 0
    gone: int = 0  # rightly refused: the adapter was removed
    wrong_tokens: int = 0
    wrong_versions: int = 0
    unnamed: int = 0
    failed: int = 0
    versions: set[str] = field(default_factory=set)
    replicas: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def make_supply(
    maker: SignatureMaker, folder: Path, layers: Sequence[int], count: int
) -> list[Made]:
    """Make adapters of a signature each, of many ranks and layers, that the reference confirms.

    A signature that it does not hear as clearly as all must be heard is left out.

    Raises:
        ValueError: fewer than ``count`` are left.
    """
    supply: list[Made] = []
    for number, signature in enumerate(maker.signatures):
        voice = Voice(
            layer=layers[number % len(layers)],
            rank=RANKS[number % len(RANKS)],
            loudness=LOUDNESS[number // 2 % len(LOUDNESS)],
        )
        other = maker.signatures[number - 1]
        beside = (other, Voice(layers[-1], loudness=LOUDNESS[-1]), FAINT)
        alone = (signature, voice, 1.0)
        if not all(
            maker.says(signature, terms, TEXTS[number % len(TEXTS)], LONGEST)
            for terms in ([alone], [alone, beside])
        ):
            continue
        archive = tar_of(maker.write(folder / f"signature-{number}", signature, voice))
        supply.append(Made(signature, voice, archive))
        if len(supply) == count:
            return supply
    raise ValueError(f"only {len(supply)} of {count} signatures are clear enough")


class Asking:
    """Endless random requests over the existing names, ``concurrency`` at a time."""

    def __init__(
        self,
        clients: dict[str, httpx2.AsyncClient],
        book: NameBook,
        base: str,
        rng: random.Random,
        requests: int,
    ) -> None:
        self._clients = clients
        self._book = book
        self._base = base
        self._rng = rng
        self._left = requests
        self._removed: list[str] = []
        self.asked: list[SignatureAsked] = []

    @property
    def busy(self) -> bool:
        """True while requests are still to be sent."""
        return self._left > 0

    async def run(self, concurrency: int) -> None:
        """Send requests until all are answered."""
        await asyncio.gather(*(self._work() for _ in range(concurrency)))

    async def _work(self) -> None:
        rng = self._rng
        while self._left > 0:
            self._left -= 1
            names = self._names()
            tokens = rng.randint(2, LONGEST)
            body: dict[str, Any] = {
                "model": names[0],
                "prompt": rng.choice(TEXTS) + (" " + rng.choice(TEXTS)) * rng.randint(0, 2),
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": rng.random() < 0.5,
            }
            if body["stream"]:
                body["stream_options"] = {"include_usage": True}
            if len(names) > 1:
                weights = (1.0, FAINT)
                body["model"] = self._base
                body["adapters"] = [
                    {"name": name, "weight": weight}
                    for name, weight in zip(names, weights, strict=True)
                ]
            reply = await ask(self._clients[rng.choice(TENANTS)], body)
            self.asked.append(SignatureAsked(names, body["prompt"], tokens, reply))
            if len(self.asked) % 500 == 0:
                print(f"  {len(self.asked)} answered, {self._book.changes} changes", flush=True)

    def _names(self) -> tuple[str, ...]:
        rng, names = self._rng, self._book.names
        if rng.random() < REMOVED_SHARE:
            gone = rng.randint(1, 2 * len(names))
            return (f"voice-{gone}",)
        if rng.random() < MIXTURE_SHARE:
            return tuple(rng.sample(names, 2))
        return (names[int(len(names) * rng.random() ** 2)],)


Reference = Callable[[Sequence[Made], SignatureAsked], str]
"""Computes the answer, word for word, from the adapters that it names."""


def judge(asked: list[SignatureAsked], churn: Churn, reference: Reference) -> Tally:
    """Compare every answer with the meanings of its names and the words of those versions.

    An adapter repeats its signature because it drowns anything else the model would say, which the
    reference has confirmed for one prompt. If an answer is something else, the reference is asked
    about that very answer.
    """
    tally = Tally()
    for item in asked:
        for kind, problem in _faults(item, churn, tally, reference):
            setattr(tally, kind, getattr(tally, kind) + 1)
            if sum(p.startswith(kind) for p in tally.problems) < SHOWN:
                tally.problems.append(f"{kind}: {' + '.join(item.names)}: {problem}")
    return tally


def _faults(
    item: SignatureAsked, churn: Churn, tally: Tally, reference: Reference
) -> Iterator[tuple[str, str]]:
    reply = item.reply
    meant = [churn.book.meant(name, reply.sent, reply.ended) for name in item.names]
    if reply.status == 404 or reply.code == "model_not_found":
        if any(None in versions for versions in meant):
            tally.gone += 1
        else:
            yield "failed", f"{reply.code} though it was there"
        return
    if reply.status != 200 or reply.code or reply.problem:
        yield "failed", f"{reply.status} {reply.code} {reply.problem}"
        return
    tally.served += 1
    tally.raced += any(len(versions) > 1 for versions in meant)
    tally.cached_tokens += reply.cached_tokens
    tally.replicas[reply.replica] += 1
    pairs = zip(item.names, meant, strict=True)
    named = [_named(name, versions, item) for name, versions in pairs]
    if None in named or not set(reply.adapters) <= set(item.names):
        yield "unnamed", f"the answer names {reply.adapters}"
        return
    used = [version for version in named if version is not None]
    for version, versions in zip(used, meant, strict=True):
        tally.versions.add(version)
        if version not in versions:
            yield "wrong_versions", f"{version}, not of {versions}"
    signature = churn.made_by[used[0]].signature
    tally.tokens += item.tokens
    if reply.text == signature.text * item.tokens:
        return
    made = [churn.made_by[version] for version in used]
    if reply.text == reference(made, item):
        tally.unclear += 1
        return
    whose = [g for g, m in churn.made_by.items() if reply.text.startswith(m.signature.text)]
    yield (
        "wrong_tokens",
        f"{reply.text!r} of {whose or 'nobody'}, expected {signature.text!r} of {reply.adapters}",
    )


def _named(name: str, versions: Collection[str | None], item: SignatureAsked) -> str | None:
    """Find the version that answered for a name; two names of one are answered under the first."""
    answered = item.reply.adapters
    if name in answered:
        return answered[name]
    shared = [g for g in answered.values() if g in versions and len(answered) < len(item.names)]
    return shared[0] if shared else None


def says(maker: SignatureMaker, made: Sequence[Made], item: SignatureAsked) -> str:
    """Answer as a ``Reference``."""
    weights = (1.0,) if len(made) == 1 else (1.0, FAINT)
    terms = [(m.signature, m.voice, w) for m, w in zip(made, weights, strict=True)]
    return maker.answer(terms, item.prompt, item.tokens)
