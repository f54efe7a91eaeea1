"""Results of a soak: JSON for programs, a page for people, a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.limits import FOREIGN, OWN, is_own, store_bounds
from benchmarks.soak.processes import Drift, ProcessBook, role_of_name, window
from cluster.redis_client import MAX_CONNECTIONS


@dataclass
class SoakReport:
    """Everything that is written."""

    minutes: float
    warm_up_s: float
    seed: int
    rate: float  # arrivals per second, mean
    concurrency: int  # most requests at once
    setup: dict[str, Any]
    sent: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    server_outcomes: dict[str, int] = field(default_factory=dict)
    by_kind: dict[str, dict[str, int]] = field(default_factory=dict)
    quiet_points: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)
    busy: float = 0.0  # of the machine's cores, by the cluster's processes
    drifts: list[Drift] = field(default_factory=list)
    store_clients: dict[str, int] = field(default_factory=dict)  # at the end, by name
    problems: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  # Ray's own processes; no problem of ours

    def write(self, folder: Path, book: ProcessBook) -> None:
        """Write ``soak.json``, ``soak.md`` and ``soak.png`` into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        values = asdict(self)
        for drift, item in zip(self.drifts, values["drifts"], strict=True):
            item["rss_growth"] = round(drift.rss_growth, 4)
        (folder / "soak.json").write_text(json.dumps(values, indent=2) + "\n")
        (folder / "soak.md").write_text(self.page())
        plot(book, self.drifts, self.warm_up_s, folder / "soak.png")

    def page(self) -> str:
        """Render the result as Markdown."""
        end = self.minutes * 60
        width = window(self.warm_up_s, end)
        lines = [
            "# Soak",
            "",
            f"{self.minutes:g} minutes of random traffic on a local cluster "
            f"(`python -m benchmarks.soak --minutes {self.minutes:g} --rate {self.rate:g}`): "
            f"{'nothing is off' if not self.problems else f'{len(self.problems)} things are off'}.",
            "",
            f"{self.sent} requests, Poisson arrivals at {self.rate:g} per second, at most "
            f"{self.concurrency} at once, seed {self.seed}; the cluster's processes took "
            f"{self.busy:.0%} of the cores. {self._setup_text()}",
            "",
            *(f"- off: {problem}" for problem in self.problems),
            *(f"- Ray's own: {growth}" for growth in self.foreign),
            *([""] if self.problems or self.foreign else []),
            "## Outcomes",
            "",
            "Every request ends in one outcome. A client that leaves does not know whether the "
            "server had finished, so such a request may be `completed` on the server's side.",
            "",
            "| outcome | clients | server |",
            "|---|---:|---:|",
            *(
                f"| {name} | {self.outcomes.get(name, 0)} | {self.server_outcomes.get(name, 0)} |"
                for name in sorted({*self.outcomes, *self.server_outcomes})
                if self.outcomes.get(name) or self.server_outcomes.get(name)
            ),
            f"| all | {sum(self.outcomes.values())} | {sum(self.server_outcomes.values())} |",
            "",
            "| kind | requests | " + " | ".join(self._seen()) + " |",
            "|---|---:|" + "---:|" * len(self._seen()),
            *(
                f"| {kind} | {sum(found.values())} | "
                + " | ".join(str(found.get(name, 0)) for name in self._seen())
                + " |"
                for kind, found in sorted(self.by_kind.items())
            ),
            "",
            "## Memory, descriptors, threads",
            "",
            f"Medians over {width:.0f} s: after {self.warm_up_s:.0f} s of warm-up, and at the end. "
            f"What a process of Braid's may grow by: {OWN.text()}. Connections to the store are "
            f"counted apart: a pool keeps what the highest concurrency so far has needed, at most "
            f"{MAX_CONNECTIONS}, and a process may have as many as its pools.",
            "",
            *self._drift_table([drift for drift in self.drifts if is_own(drift)]),
            "",
            "At the end the store had these connections: "
            + ", ".join(f"{count} {name}" for name, count in self.store_clients.items())
            + ".",
            "",
            f"Ray's own processes, which do not fail a soak; what is reported: {FOREIGN.text()}.",
            "",
            *self._drift_table([drift for drift in self.drifts if not is_own(drift)]),
            "",
            "![resident memory](soak.png)",
            "",
            "## Quiet points",
            "",
            "Arrivals stop, everything ends, and the books are compared: nothing in flight, all KV "
            "blocks free, no leases, pools whole, as many outcomes as requests. Two greedy prompts "
            "are asked each time and must be answered as the first time.",
            "",
            "| minute | requests | counted | at rest after | off |",
            "|---:|---:|---:|---:|---:|",
            *(
                f"| {point['at'] / 60:.1f} | {point['sent']} | {point['counted']} | "
                f"{point['rest_s']:.1f} s | {len(point['problems'])} |"
                for point in self.quiet_points
            ),
            "",
            "## What was exercised",
            "",
            "| counter | total |",
            "|---|---:|",
            *(f"| {name} | {value:.0f} |" for name, value in sorted(self.counters.items())),
            "",
        ]
        return "\n".join(lines)

    def _drift_table(self, drifts: Sequence[Drift]) -> list[str]:
        bounds = store_bounds(drift.name for drift in self.drifts)
        return [
            "| process | MiB | at the end | growth | descriptors | threads | to the store |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(
                f"| {role_of_name(drift.name)} | {drift.rss[0] / 2**20:.1f} | "
                f"{drift.rss[1] / 2**20:.1f} | {drift.rss_growth:+.1%} | "
                f"{drift.fds[0]:g}, {drift.fds[1]:g} | {drift.threads[0]:g}, "
                f"{drift.threads[1]:g} | {drift.store[0]}, {drift.store[1]} of "
                f"{bounds[drift.name]} |"
                for drift in drifts
            ),
        ]

    def _seen(self) -> list[str]:
        return sorted({name for found in self.by_kind.values() for name in found})

    def _setup_text(self) -> str:
        return "; ".join(f"{name}: {value}" for name, value in self.setup.items()) + "."


def plot(book: ProcessBook, drifts: Sequence[Drift], warm_up_s: float, path: Path) -> None:
    """Plot each process's resident memory over time, relative to its own after the warm-up."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for drift in sorted(drifts, key=lambda item: -item.rss[0]):
        samples = book.samples[drift.name]
        role = role_of_name(drift.name)
        axes.plot(
            [item.at / 60 for item in samples],
            [item.rss / drift.rss[0] for item in samples],
            label=f"{role} ({drift.rss[0] / 2**20:.0f} MiB)",
            linewidth=1,
        )
    axes.axvline(warm_up_s / 60, color="gray", linestyle=":", linewidth=1)
    axes.axhspan(0.95, 1.05, color="gray", alpha=0.15)
    axes.set(xlabel="minutes", ylabel="resident memory, relative", ylim=(0.7, 1.2))
    axes.legend(fontsize=6, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
