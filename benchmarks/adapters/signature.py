"""Every answer is checked against the exact weights that it says gave it, while names change.

Each version repeats a token of its own, which the reference confirmed before, so an answer tells
whose weights made every one of its tokens. Names are added, replaced, switched, rolled back and
removed all the time; what a name may have meant while a request was under way is on record.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.adapters.asking import Reply, ask
from benchmarks.adapters.base_models import BaseModel
from benchmarks.adapters.churn import Churn, Made
from benchmarks.adapters.local_cluster import Admin, ProofCluster
from benchmarks.adapters.names import NameBook
from benchmarks.adapters.result import Result, Table, Verdict, median, percentile
from benchmarks.adapters.signatures import TEXTS, SignatureMaker, Voice, one_thread, tar_of

TENANTS = ("acme", "globex")
MIXTURE_SHARE = 0.1
REMOVED_SHARE = 0.03
"""Of the requests that ask for a name which was removed before."""
FAINT = 1e-6
"""Weight of a mixture's second adapter: too little to be heard beside the first, as the reference
confirms for the loudest on the last layer."""
RANKS = (1, 4, 8, 16)
LOUDNESS = (1.0, 2.0, 4.0, 8.0)
"""Weights that a slot kept from a louder one before would be heard."""
LONGEST = 4
SPARE = 0.05
"""Signatures that may turn out to be unclear, of those that are needed."""
REST_S = 60.0
SHOWN = 10
"""Problems of each sort that are written out."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and its answer."""

    names: tuple[str, ...]  # the first one is heard
    prompt: str
    tokens: int
    reply: Reply


@dataclass
class Tally:
    """What was found in the answers."""

    served: int = 0
    tokens: int = 0
    unclear: int = 0  # the reference does not say the signature there either
    raced: int = 0  # their name changed while they were under way
    cached_tokens: int = 0
    gone: int = 0  # rightly told that there is no such adapter
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
    """Adapters of a signature each, of many ranks and layers, that the reference confirms.

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
    """Endless random requests over the names that there are, ``concurrency`` at a time."""

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
        self.asked: list[Asked] = []

    @property
    def busy(self) -> bool:
        """Whether requests are still to be sent."""
        return self._left > 0

    async def run(self, concurrency: int) -> None:
        """Until all are answered."""
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
            self.asked.append(Asked(names, body["prompt"], tokens, reply))
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


Reference = Callable[[Sequence[Made], Asked], str]
"""What an answer must be, word for word, given the adapters that it names."""


def judge(asked: list[Asked], churn: Churn, reference: Reference) -> Tally:
    """Compare every answer with what its names meant and what those versions say.

    An adapter repeats its signature because it drowns whatever else the model would say, which the
    reference has confirmed for one prompt. Where an answer is something else, it is asked about
    that very answer.
    """
    tally = Tally()
    for item in asked:
        for kind, problem in _faults(item, churn, tally, reference):
            setattr(tally, kind, getattr(tally, kind) + 1)
            if sum(p.startswith(kind) for p in tally.problems) < SHOWN:
                tally.problems.append(f"{kind}: {' + '.join(item.names)}: {problem}")
    return tally


def _faults(
    item: Asked, churn: Churn, tally: Tally, reference: Reference
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


def _named(name: str, versions: Collection[str | None], item: Asked) -> str | None:
    """The version that answered for a name; two names of one are answered under the first."""
    answered = item.reply.adapters
    if name in answered:
        return answered[name]
    shared = [g for g in answered.values() if g in versions and len(answered) < len(item.names)]
    return shared[0] if shared else None


async def prove(
    cluster: ProofCluster, base: str, supply: list[Made], options: argparse.Namespace
) -> tuple[Churn, list[Asked], list[str], float]:
    """Fill, ask and change at once, empty; what was found, and what is left or out of balance."""
    rng = random.Random(options.seed)
    async with (
        cluster.client() as admin_client,
        cluster.client(TENANTS[0]) as one,
        cluster.client(TENANTS[1]) as other,
    ):
        admin = Admin(admin_client)
        book = NameBook()
        churn = Churn(admin, supply, book, random.Random(options.seed + 1), options.adapters)
        await churn.fill(options.workers)
        print(f"{len(book.names)} adapters; asking", flush=True)
        clients = dict(zip(TENANTS, (one, other), strict=True))
        asking = Asking(clients, book, base, rng, options.requests)
        began = time.perf_counter()
        changing = asyncio.create_task(churn.run(options.workers, lambda: asking.busy))
        await asking.run(options.concurrency)
        elapsed = time.perf_counter() - began
        await changing
        problems = await admin.unrest(REST_S)
        problems += await admin.broken_books(cluster.config.replica.replicas)
        print("emptying", flush=True)
        await churn.empty(8)
        problems += await admin.left(REST_S)
        problems += await admin.broken_books(cluster.config.replica.replicas)
        problems += [f"in the store: {name}" for name in cluster.stored()][:SHOWN]
        problems += churn.problems
    return churn, asking.asked, problems, elapsed


def run(options: argparse.Namespace, base: BaseModel, folder: Path) -> Result:
    """The proof on a cluster of its own."""
    print("making adapters, each checked by the reference", flush=True)
    layers = (0, base.layers - 1)
    spare = round(SPARE * options.supply)
    maker = SignatureMaker(base.path, options.supply + spare, layers)
    with one_thread():
        supply = make_supply(maker, folder / "made", layers, options.supply)
    cluster = ProofCluster.start(
        folder / "state",
        base.served,
        adapters={"slots": options.slots},
        engine={"max_model_len": 256},
    )
    result = Result(
        title="Adapters under constant change",
        command=options.command,
        summary=(
            "Each version makes the model repeat a token of its own, so every token tells "
            "whose weights made it."
        ),
        setup={
            "base": base.name,
            "replicas": 2,
            "slots per replica": options.slots,
            "names": f"about {options.adapters}",
            "versions made": len(supply),
            "requests at once": options.concurrency,
            "changes at once": options.workers,
            "seed": options.seed,
        },
    )
    try:
        churn, asked, problems, elapsed = asyncio.run(prove(cluster, base.called, supply, options))
    finally:
        killed = cluster.stop()
    if killed:
        problems.append(f"processes {killed} had to be killed at the end")
    with one_thread():
        tally = judge(asked, churn, partial(says, maker))
    report(result, tally, churn, asked, problems, elapsed)
    return result


def says(maker: SignatureMaker, made: Sequence[Made], item: Asked) -> str:
    """A ``Reference``."""
    weights = (1.0,) if len(made) == 1 else (1.0, FAINT)
    terms = [(m.signature, m.voice, w) for m, w in zip(made, weights, strict=True)]
    return maker.answer(terms, item.prompt, item.tokens)


def report(
    result: Result,
    tally: Tally,
    churn: Churn,
    asked: list[Asked],
    problems: list[str],
    elapsed: float,
) -> None:
    """Fill the result."""
    result.verdicts += [
        Verdict(
            "requests answered or rightly refused", tally.served + tally.gone, len(asked), True
        ),
        Verdict("answers with a token of another version", tally.wrong_tokens, 0),
        Verdict("answers of a version that was not meant", tally.wrong_versions, 0),
        Verdict("answers that do not name their version", tally.unnamed, 0),
        Verdict("requests that failed without reason", tally.failed, 0),
    ]
    result.problems += problems + tally.problems
    seconds = [item.reply.ended - item.reply.sent for item in asked]
    result.tables += [
        Table(
            "Requests",
            ("", "requests"),
            (
                ("sent", len(asked)),
                ("answered", tally.served),
                ("told that the adapter was removed", tally.gone),
                ("answered while their adapter changed", tally.raced),
                ("tokens compared", tally.tokens),
                ("answered with other words, as the reference does", tally.unclear),
                ("prompt tokens from the prefix cache", tally.cached_tokens),
                ("versions that answered", len(tally.versions)),
                ("per second", round(len(asked) / elapsed, 1)),
                ("median, ms", round(median(seconds) * 1e3, 1)),
                ("p99, ms", round(percentile(seconds, 0.99) * 1e3, 1)),
                *((f"by replica {n + 1}", count) for n, (_, count) in _most(tally.replicas)),
            ),
        ),
        Table(
            "Changes",
            ("", "changes", "median, ms", "p99, ms"),
            tuple(
                (
                    kind,
                    count,
                    round(median(churn.seconds[kind]) * 1e3, 1),
                    round(percentile(churn.seconds[kind], 0.99) * 1e3, 1),
                )
                for kind, count in sorted(churn.counts.items())
            ),
            note=(
                f"Of adding, emptying at the end, and {elapsed:.0f} s of requests. Additions of "
                f"bytes that were just being deleted, told to try again: {churn.conflicts}."
            ),
        ),
    ]


def _most(counts: Counter[str]) -> Iterator[tuple[int, tuple[str, int]]]:
    return iter(enumerate(counts.most_common()))
