"""A run's figures as a page and as data."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.relay.measure import Figures

HEADING = """\
# Front CPU for each streamed token

A front as the deployment builds it, in a process of its own, relays from a replica that has a real
link server and a script in place of an engine: one token a step for each stream. Clients read
server-sent events.

- CPU: the front process's user and system time, without what it takes with nothing to do, over the
  tokens that clients have read.
- Relay: from the replica's sending to the client's reading.
- First token: of requests that are asked one after another next to the streams, from the
  client's sending to its reading. The replica sends that token at once.
- Log-probabilities: of each token, and of two alternatives.
- With one stream, each message of the link is for one token, so its cost shows. The more streams a
  step has, the more tokens share it.
"""
BESIDE = """\
## Another server for comparison

The same clients, the same machine, and the CPU of the process that speaks HTTP. Its engine sets the
pace, and its first tokens wait for that engine, so compare neither relay nor first token.
"""

HEAD = (
    "| case | streams | step (ms) | CPU per token (µs) | of each window (µs) | share of a core "
    "| tokens/s | events/s | relay p50 / p99 (ms) | first token p50 / p99 (ms) |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


def table(figures: Sequence[Figures]) -> str:
    """Return a Markdown table, one row a case."""
    return HEAD + "".join(_row(one) for one in figures)


@dataclass(frozen=True, slots=True)
class RelayRun:
    """One server's figures, and how they came about."""

    command: str
    setup: dict[str, str]
    cases: tuple[Figures, ...]

    @classmethod
    def read(cls, path: Path) -> "RelayRun":
        """Read a ``relay.json``."""
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cases = [{**case, "cpu_us_each": tuple(case["cpu_us_each"])} for case in found["cases"]]
        return cls(found["command"], found["setup"], tuple(Figures(**case) for case in cases))

    def described(self) -> str:
        """Return command, setup and table as Markdown."""
        lines = "".join(f"- {name}: {value}\n" for name, value in self.setup.items())
        return f"`{self.command}`\n\n{lines}\n{table(self.cases)}"


def page(run: RelayRun, beside: RelayRun | None = None) -> str:
    """Return the whole page of a front's run, and of another server's in ``beside``."""
    text = f"{HEADING}\n{run.described()}"
    if beside is not None:
        text += f"\n{BESIDE}\n{beside.described()}"
    return text


def write(folder: Path, run: RelayRun, beside: RelayRun | None) -> tuple[Path, Path]:
    """Write ``relay.json`` and ``relay.md`` into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text = folder / "relay.json", folder / "relay.md"
    found = asdict(run) | ({} if beside is None else {"beside": asdict(beside)})
    data.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text.write_text(page(run, beside), encoding="utf-8")
    return data, text


def _row(one: Figures) -> str:
    each = " ".join(f"{value:.0f}" for value in one.cpu_us_each)
    cells = [
        one.name,
        str(one.streams),
        f"{one.interval_ms:g}",
        f"**{one.cpu_us_per_token:.0f}**",
        each,
        f"{one.core_share:.2f}",
        f"{one.tokens_per_s:.0f}",
        f"{one.events_per_s:.0f}",
        f"{one.relay_ms_p50:.1f} / {one.relay_ms_p99:.1f}",
        f"{one.ttft_ms_p50:.1f} / {one.ttft_ms_p99:.1f}",
    ]
    return f"| {' | '.join(cells)} |\n"
