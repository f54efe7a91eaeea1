"""Collects what was seen while parts of a live cluster broke, and makes the page of it."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.adapters.result import ProofResult, ProofVerdict, Table, median, percentile
from benchmarks.placement.live.sole_copies import CopiesLost
from benchmarks.placement.live.steady_load import SteadyOutcome, SteadyPhase

REPLICAS, MOST = 3, 4
HANG_S = 60.0
FIRST_S = 5.0
"""After that nothing may be sent to a replica that hangs."""
RESCUED_S = 10.0
"""Longest that a request may wait, or pause, because its replica hangs or dies."""
HANGS, STILL_HANGS = f"A hangs, its first {FIRST_S:g} s", "A hangs"
_LOST = (SteadyOutcome.FAILED, SteadyOutcome.OTHER, SteadyOutcome.LATE)


@dataclass(frozen=True, slots=True)
class CountSample:
    """The cluster at one moment."""

    at: float  # seconds since the load began
    processes: int  # replicas that run, hung ones included
    wanted: int | None  # by the controller; None: it did not answer
    wish: int | None  # the most that load, memory, queues or bounds ask for


@dataclass
class FaultLog:
    """Everything that was seen."""

    phases: list[SteadyPhase] = field(default_factory=list)
    samples: list[CountSample] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # replica id -> A, B, C, ...
    hung: CopiesLost | None = None
    killed: CopiesLost | None = None

    def name_of(self, replica_id: str) -> str:
        """Return a replica's letter; new replicas get the next."""
        return self.names.setdefault(replica_id, chr(ord("A") + len(self.names)))

    @property
    def outcomes(self) -> Counter[SteadyOutcome]:
        """Return the ends of all requests."""
        return sum((phase.outcomes for phase in self.phases), Counter[SteadyOutcome]())

    @property
    def lost(self) -> int:
        """Return the requests that failed, did not end or got other tokens."""
        return sum(self.outcomes[kind] for kind in _LOST)

    @property
    def picked_hung(self) -> int:
        """Return the answers of the hung replica to what was sent after ``FIRST_S``."""
        hung = next(replica for replica, letter in self.names.items() if letter == "A")
        return sum(phase.picks[hung] for phase in self.phases if phase.name == STILL_HANGS)

    @property
    def least_wanted(self) -> int:
        """Return the fewest replicas that the controller wanted."""
        return min((s.wanted for s in self.samples if s.wanted is not None), default=0)

    @property
    def least_wish(self) -> int:
        """Return the fewest replicas that anything asked for: what a fault could have left."""
        return min((s.wish for s in self.samples if s.wish is not None), default=0)

    @property
    def longest_wait(self) -> float:
        """Return the longest wait for a first token, in seconds."""
        return max((s for phase in self.phases for s in phase.ttft), default=float("nan"))

    @property
    def longest_pause(self) -> float:
        """Return the longest pause within an answer, in seconds."""
        return max((s for phase in self.phases for s in phase.pauses), default=float("nan"))


def report(
    options: argparse.Namespace, base: str, log: FaultLog, books: Sequence[str]
) -> ProofResult:
    """Make the result."""
    letters = {log.name_of(replica) for phase in log.phases for replica in phase.picks}
    ids = {letter: replica for replica, letter in log.names.items()}
    errors = sum((phase.errors for phase in log.phases), Counter[str]())
    return ProofResult(
        title="Requests while parts of the cluster break",
        command="python -m benchmarks.placement faults",
        summary=(
            "A request counts to the phase that sent it. Refused: 429 or 503 before its first "
            f"token, which tells the client to come back. A stands still for {HANG_S:g} s. The "
            f"policy allows fewer than {REPLICAS} replicas, and the load asks for fewer."
        ),
        setup={
            "base": base,
            "replicas": f"{REPLICAS}, allowed 1 to {MOST}",
            "adapters": f"{options.adapters} over {options.slots} slots a replica",
            "requests": log.outcomes.total(),
            "arrivals": f"Poisson, {options.rate:g}/s, {options.tokens} tokens each",
            "seed": options.seed,
        },
        verdicts=[
            ProofVerdict("requests that failed, did not end or got other tokens", log.lost, 0),
            ProofVerdict(
                f"answered by the hung replica of those sent after {FIRST_S:g} s",
                log.picked_hung,
                0,
            ),
            ProofVerdict("least replicas wanted", log.least_wanted, REPLICAS, at_least=True),
            ProofVerdict("least replicas asked for by load and bounds", log.least_wish, 2),
            ProofVerdict("longest wait for a first token", log.longest_wait, RESCUED_S, unit=" s"),
            ProofVerdict(
                "longest pause within an answer", log.longest_pause, RESCUED_S, unit=" s"
            ),
        ],
        problems=[*books, *(f"{count} times {error}" for error, count in errors.items())],
        tables=[
            Table(
                "Requests by phase",
                (
                    "phase", "s", "sent", *SteadyOutcome, "TTFT p50, ms", "p99", "longest, s",
                    "longest pause, s",
                ),
                tuple(
                    (
                        phase.name,
                        phase.seconds,
                        phase.outcomes.total(),
                        *(phase.outcomes[kind] for kind in SteadyOutcome),
                        round(median(phase.ttft) * 1e3),
                        round(percentile(phase.ttft, 0.99) * 1e3),
                        round(max(phase.ttft, default=float("nan")), 2),
                        round(max(phase.pauses, default=float("nan")), 2),
                    )
                    for phase in log.phases
                ),
            ),
            Table(
                "Answers by phase and replica",
                ("phase", *sorted(letters)),
                tuple(
                    (phase.name, *(phase.picks[ids[letter]] for letter in sorted(letters)))
                    for phase in log.phases
                ),
                note="A replica is the one whose token came first. Later letters replaced others.",
            ),
            Table(
                "Replicas over time",
                ("s", "processes", "wanted", "asked for by load and bounds"),
                tuple(_changes(log.samples)),
                note="Changes only. -: the controller did not answer.",
            ),
        ],
    )  # fmt: skip


def _changes(samples: Sequence[CountSample]) -> list[tuple[str, int, int | str, int | str]]:
    lines: list[tuple[str, int, int | str, int | str]] = []
    for sample in samples:
        wanted = "-" if sample.wanted is None else sample.wanted
        wish = "-" if sample.wish is None else sample.wish
        line = (f"{sample.at:.0f}", sample.processes, wanted, wish)
        if not lines or lines[-1][1:] != line[1:]:
            lines.append(line)
    return lines
