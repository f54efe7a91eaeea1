"""A runner without a model, for tests of what is around it."""

import threading
from collections.abc import Mapping, Sequence

from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import TokenLogprobs
from cluster.engine.mixing import Mixing
from cluster.engine.steps import StepOutput, StepPlan
from cluster.errors import EngineError


class FakeRunner:
    """Token n of a sequence is 100 + n, or what ``script`` says; steps wait for ``gate``.

    The log-probability told by row n of a prompt is -n.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[int]] = {}
        self.raises: dict[str, Exception] = {}
        self.failed: dict[str, str] = {}
        self.logprobs: dict[RequestId, TokenLogprobs] = {}
        self.seeds: dict[RequestId, set[int]] = {}
        self.gate: threading.Semaphore | None = None
        self.entered = threading.Semaphore(0)
        self.at_start: Exception | None = None
        self.rests = 0
        self.sizes: dict[Slot, tuple[int, int]] = {}

    def start(self) -> None:
        if self.at_start is not None:
            raise self.at_start

    def check_adapters(self, adapters: Sequence[tuple[Slot, float]]) -> None:
        if any(weight != weight for _, weight in adapters):
            raise EngineError("weight is not a number")

    def check_mixing(self, num_adapters: int, mixing: Mixing) -> None:
        if mixing.router and num_adapters != 1:
            raise EngineError("a router weighs one adapter")

    def adapter_size(self, slot: Slot) -> tuple[int, int]:
        return self.sizes.get(slot, (0, 0))

    def rest(self) -> None:
        self.rests += 1

    def execute(self, plan: StepPlan, seeds: Mapping[RequestId, int]) -> StepOutput:
        self.entered.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        tokens = {}
        prompts = {}
        for item in plan.scheduled:
            name = item.sequence.request_id
            self.seeds.setdefault(name, set()).add(seeds[name])
            if name in self.raises:
                raise self.raises.pop(name)
            if item.sequence.is_unscored:
                start = max(item.start, item.sequence.num_scored)
                end = min(item.end, item.sequence.prompt_len - 1)
                prompts[name] = tuple(TokenLogprobs(-float(n)) for n in range(start, end))
            if item.samples:
                n = item.sequence.num_generated
                script = self.script.get(name)
                tokens[name] = script[n] if script else 100 + n
        failed = {k: v for k, v in self.failed.items() if k in seeds}
        return StepOutput(tokens, self.logprobs, failed, prompts)
