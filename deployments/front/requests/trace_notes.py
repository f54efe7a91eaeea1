"""Hands a request that has ended to the trace log, sequence by sequence."""

import hmac
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.clock import Clock
from cluster.config import AppConfig
from cluster.domain.request import Outcome
from deployments.front.requests.running import Running
from deployments.front.sequences.choice import Choice
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.telemetry.request_log import current_record
from deployments.front.telemetry.trace_log import PrefixKeys, TraceEntry, TraceLog

OK, CANCELLED = "ok", "cancelled"


class TraceNotes:
    """Notes ended requests, if there is a trace log.

    Args:
        log: None notes nothing.
    """

    def __init__(self, log: TraceLog | None = None) -> None:
        self._log = log

    def note(self, running: Running, now: float) -> None:
        """Note all sequences of a request that has just ended.

        Args:
            now: monotonic, seconds.
        """
        if self._log is None:
            return
        record, times = current_record(), running.times
        started = record.started or times.started
        failed = CANCELLED if running.outcome is Outcome.CANCELLED else record.code or "unknown"
        for choice in running.choices:
            first = times.firsts.get(choice.index)
            ended = times.latest.get(choice.index, now) if choice.is_complete else now
            usage = choice.answer.usage
            self._log.offer(
                TraceEntry(
                    started=started,
                    tenant=running.tenant.id,
                    mixture=running.decided.decision.mixture,
                    prompt_token_ids=choice.spec.prompt_token_ids,
                    generated=choice.generated,
                    max_tokens=choice.spec.sampling.max_tokens,
                    deadline_s=choice.spec.deadline_at - choice.spec.arrived_at,
                    replica=choice.replica or "",
                    tier_found="" if choice.picked is None else choice.picked.tier_found,
                    ttft=None if first is None else first - started,
                    e2e=ended - started,
                    outcome=OK if choice.is_complete else failed,
                    queued=None if usage is None else usage.queued_s,
                    pick=_explain(choice),
                )
            )


def open_trace_log(
    config: AppConfig, signing_key: bytes, clock: Clock, metrics: FrontMetrics
) -> TraceLog | None:
    """Begin the trace log, where one is configured; close it.

    Args:
        config: where it lies, the size of KV blocks, and whether tenants share them.
        signing_key: secret of the cluster, of which the salt is made.
        clock: of this process.
        metrics: count its lines.
    """
    if config.front.trace_log is None:
        return None
    salt = hmac.digest(signing_key, b"prefixes of the trace log", "sha256")
    keys = PrefixKeys(salt, config.engine.block_size, config.tenant_isolation)

    def count(result: str, lines: int) -> None:
        metrics.trace_lines.labels(result).inc(lines)

    return TraceLog(config.front.trace_log, keys, clock, count)


def _explain(choice: Choice) -> Mapping[str, Any] | None:
    """Return its pick's explanation in plain data, if there is one."""
    picked = choice.picked
    if picked is None or picked.explanation is None:
        return None
    return asdict(picked.explanation)
