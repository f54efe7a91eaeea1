"""Single steps through ``ModelRunner.execute``: prefill and decode apart, without the step loop.

A decode step is one token for each request of the batch after a given context. The context's keys
and values are whatever is in the cache: their values cost nothing, their number does.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.engine.cases import Mixture
from benchmarks.engine.engine_run import make_request
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import SamplingParams
from cluster.engine.execution.model_runner import ModelRunner
from cluster.engine.execution.step_batches import StepBatches
from cluster.engine.model.adapter_bank import make_bank
from cluster.engine.model.model_loader import LoadedModel
from cluster.engine.sequence import EngineSequence
from cluster.engine.steps import ScheduledSequence, StepPlan
from cluster.errors import EngineError
from kernels.lora.bank import AdapterBank

Part = tuple[EngineSequence, int, int]
"""A sequence's part of a step: its first token, and the number of tokens."""


class StepView:
    """A model runner without an engine, used from one thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        config: EngineConfig,
        adapter_config: AdapterConfig,
        make: Callable[[AdapterBank], StepBatches] | None = None,
    ) -> None:
        """Give the model a runner; the calling thread gets the configuration's thread count.

        Args:
            loaded: the model.
            config: of its engine.
            adapter_config: of its bank, which is left empty.
            make: makes the runner's batches over the bank; None: the device's own.

        Raises:
            ModelSourceError: the model cannot be run.
        """
        self.bank = make_bank(loaded, config, adapter_config)
        batches = None if make is None else make(self.bank)
        self._runner = ModelRunner(loaded, config, self.bank, batches=batches)
        self._runner.start()
        self._block_size = config.block_size
        self._vocab_size = loaded.vocab_size
        self._max_model_len = loaded.max_model_len
        self._arrivals = itertools.count()
        self._steps = itertools.count()

    def prefill(self, mixtures: Sequence[Mixture], tokens: int) -> float:
        """Measure the seconds of a step that computes a prompt of ``tokens`` tokens for each
        request."""
        sequences = self._sequences(mixtures, tokens, room=tokens + 1)
        return self._execute([(sequence, 0, tokens) for sequence in sequences])

    def decode(
        self,
        mixtures: Sequence[Mixture],
        context: int,
        steps: int,
        sampling: SamplingParams | None = None,
    ) -> list[float]:
        """Measure the seconds of ``steps`` decode steps in a row, the first after ``context``
        tokens; greedy unless ``sampling`` says otherwise.

        One more step is made before them and not counted: in it the batch's adapters are grouped,
        which a real batch does when it changes.
        """
        sequences = self._sequences(mixtures, context, context + steps + 1, sampling)
        taken = []
        for done in range(steps + 1):
            at = context - 1 + done
            taken.append(self._execute([(sequence, at, 1) for sequence in sequences]))
        return taken[1:]

    def _sequences(
        self,
        mixtures: Sequence[Mixture],
        tokens: int,
        room: int,
        sampling: SamplingParams | None = None,
    ) -> list[EngineSequence]:
        blocks_each = -(-room // self._block_size)
        sequences = []
        for index, mixture in enumerate(mixtures):
            arrival = next(self._arrivals)
            prompt = [(31 * position + 7 * index) % self._vocab_size for position in range(tokens)]
            asked = make_request(f"step-{arrival}", prompt, room)
            sequence = EngineSequence.create(
                asked if sampling is None else replace(asked, sampling=sampling),
                namespace="bench",
                adapters=tuple((Slot(slot), weight) for slot, weight in mixture),
                stop_token_ids=frozenset(),
                max_model_len=self._max_model_len,
            )
            sequence.arrival = arrival
            first = index * blocks_each
            sequence.block_table = list(range(first, first + blocks_each))
            sequences.append(sequence)
        return sequences

    def _execute(self, parts: Sequence[Part]) -> float:
        plan = StepPlan(
            next(self._steps),
            tuple(
                ScheduledSequence(sequence, start, count, True) for sequence, start, count in parts
            ),
        )
        seeds: dict[RequestId, int] = {sequence.request_id: 0 for sequence, _, _ in parts}
        begin = time.perf_counter()
        output = self._runner.execute(plan, seeds)
        seconds = time.perf_counter() - begin
        if output.failed:
            raise EngineError(f"a step failed: {'; '.join(output.failed.values())}")
        for sequence, start, count in parts:
            sequence.token_ids.append(output.token_ids[sequence.request_id])
            sequence.num_computed = start + count
        return seconds
