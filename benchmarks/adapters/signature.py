"""Proof that every answer is of the exact weights that it names, while names change.

Names are added, replaced, switched, rolled back and removed all the time; what a name may have
meant while a request was under way is on record.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.adapters.base_models import BaseModel
from benchmarks.adapters.proof_cluster import start_proof_cluster, stored_in
from benchmarks.adapters.result import ProofResult, ProofVerdict, Table, median, percentile
from testing.admin_client import Admin
from testing.local_cluster import LocalCluster
from testing.signatures.churn import Churn, Made
from testing.signatures.name_book import NameBook
from testing.signatures.signature_maker import SignatureMaker, one_thread
from testing.signatures.signature_traffic import (
    SHOWN,
    TENANTS,
    Asking,
    SignatureAsked,
    Tally,
    judge,
    make_supply,
    says,
)

SPARE = 0.05
"""Share of signatures beyond those needed; some may turn out to be unclear."""
REST_S = 60.0


async def prove(
    cluster: LocalCluster, base: str, supply: list[Made], options: argparse.Namespace
) -> tuple[Churn, list[SignatureAsked], list[str], float]:
    """Run the signature test: fill, ask and change at once, then empty.

    Returns the answers, and what is left or out of balance."""
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
        problems += [f"in the store: {name}" for name in stored_in(cluster.state)][:SHOWN]
        problems += churn.problems
    return churn, asking.asked, problems, elapsed


def run(options: argparse.Namespace, base: BaseModel, folder: Path) -> ProofResult:
    """Run the proof on a cluster of its own."""
    print("making adapters, each checked by the reference", flush=True)
    layers = (0, base.layers - 1)
    spare = round(SPARE * options.supply)
    maker = SignatureMaker(base.path, options.supply + spare, layers)
    with one_thread():
        supply = make_supply(maker, folder / "made", layers, options.supply)
    cluster = start_proof_cluster(
        folder / "state",
        base.served,
        adapters={"slots": options.slots},
        engine={"max_model_len": 256},
    )
    result = ProofResult(
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


def report(
    result: ProofResult,
    tally: Tally,
    churn: Churn,
    asked: list[SignatureAsked],
    problems: list[str],
    elapsed: float,
) -> None:
    """Fill the result."""
    result.verdicts += [
        ProofVerdict(
            "requests answered or rightly refused", tally.served + tally.gone, len(asked), True
        ),
        ProofVerdict("answers with a token of another version", tally.wrong_tokens, 0),
        ProofVerdict("answers of a version that was not meant", tally.wrong_versions, 0),
        ProofVerdict("answers that do not name their version", tally.unnamed, 0),
        ProofVerdict("requests that failed without reason", tally.failed, 0),
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
                ("refused because the adapter was removed", tally.gone),
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
                f"bytes that were just being deleted, which were sent again: {churn.conflicts}."
            ),
        ),
    ]


def _most(counts: Counter[str]) -> Iterator[tuple[int, tuple[str, int]]]:
    return iter(enumerate(counts.most_common()))
