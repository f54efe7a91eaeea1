"""Requests before an engine host, under any order of what may happen to them."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.config import EngineConfig
from cluster.domain.ids import Slot, TenantId
from cluster.domain.request import FinishReason, SamplingParams
from cluster.engine.engine_counters import EngineCounters
from cluster.engine.hosted.hosted_requests import HostedRequests, HostedSequence
from cluster.engine.hosted.messages import HostTokens, StepDone
from cluster.engine.hosted.step_account import StepAccount
from cluster.engine.sequence import EngineSequence
from cluster.errors import Overloaded, PromptTooLong
from tests.support.engines import make_request

MAX_LEN = 24
CONFIG = EngineConfig(max_batch_size=3, max_queued=4, block_size=4)
NBYTES, RANK = 100, 8


class HostedRequestsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.requests = HostedRequests.over(CONFIG, kv_blocks=5, vocab_size=100)
        self.counters = EngineCounters()
        self.account = StepAccount(
            self.requests, self.counters, lambda _: (NBYTES, RANK), CONFIG.block_size
        )
        self.names = 0
        self.at_host: dict[int, int] = {}  # tokens computed there, by number
        self.told: dict[str, int] = {}  # tokens that chunks brought
        self.ended: set[str] = set()

    @rule(
        prompt=st.integers(1, MAX_LEN - 1),
        max_tokens=st.integers(1, MAX_LEN),
        tenant=st.sampled_from("ab"),
        adapted=st.booleans(),
    )
    def submit(self, prompt: int, max_tokens: int, tenant: str, adapted: bool) -> None:
        self.names += 1
        request = make_request(
            f"{self.names}", [5] * prompt, SamplingParams(max_tokens=max_tokens, temperature=0)
        )
        request = replace(request, tenant=TenantId(tenant))
        sequence = EngineSequence.create(
            request,
            namespace="n",
            adapters=((Slot(0), 1.0),) if adapted else (),
            stop_token_ids=frozenset({1}),
            max_model_len=MAX_LEN,
        )
        try:
            self.requests.add(HostedSequence(sequence, (("0@d#1", 1.0),) if adapted else ()))
        except PromptTooLong:
            assert min(prompt + max_tokens, MAX_LEN) - 1 > 20
        except Overloaded:
            assert len(self.requests.order) >= CONFIG.max_queued
        else:
            self.told[request.request_id] = 0

    @rule()
    def admit(self) -> None:
        for request in self.requests.admit():
            self.at_host[request.number] = 0

    @rule(stops=st.sets(st.integers(0, 3)), behind=st.booleans())
    def step(self, stops: set[int], behind: bool) -> None:
        """Compute everything that is at the host, and end some by a stop token."""
        computed, tokens = [], []
        for place, (number, done) in enumerate(list(self.at_host.items())):
            request = self.requests.sent.get(number)
            known = done + 1 if request is None else request.sequence.num_tokens
            computed.append((number, done, known - done))
            token = 1 if place in stops else 7
            full = request is not None and known + 1 >= request.sequence.max_len
            finish = "stop" if token == 1 else "length" if full else ""
            if behind:  # the host does not see the end
                finish = ""
            tokens.append(HostTokens(number, [token], finish=finish))
            self.at_host[number] = known
            if finish:
                del self.at_host[number]
        chunks, to_abort = self.account.commit(StepDone(0.1, computed, tokens, 5, 0), 1.0)
        for chunk in chunks:
            assert chunk.request_id not in self.ended
            self.told[chunk.request_id] += len(chunk.token_ids)
            if chunk.finish_reason is not None:
                assert chunk.usage.completion_tokens == self.told[chunk.request_id]
                self.ended.add(chunk.request_id)
        for number in to_abort:
            del self.at_host[number]

    @rule(pick=st.integers(0, 9), withdraws=st.booleans())
    def leave(self, pick: int, withdraws: bool) -> None:
        live = list(self.requests.live)
        if not live:
            return
        request = self.requests.live[live[pick % len(live)]]
        if withdraws:
            assert self.requests.withdraw(request.id) is (request.number < 0)
        elif self.requests.end(request, FinishReason.CANCELLED):
            del self.at_host[request.number]
        if request.id not in self.requests.live:
            self.ended.add(request.id)

    @invariant()
    def books_add_up(self) -> None:
        self.requests.check_integrity()
        assert len(self.requests.sent) <= CONFIG.max_batch_size
        assert self.requests.sent.keys() == self.at_host.keys()
        assert self.requests.live.keys() == self.told.keys() - self.ended
        assert self.counters.generated_tokens == sum(self.told.values())
        assert all(tokens > 0 for tokens in self.requests.backlog().values())

    @invariant()
    def nobody_waits_next_to_a_free_place_for_ever(self) -> None:
        if len(self.requests.sent) < CONFIG.max_batch_size and len(self.requests.order):
            assert self.requests.order.next() is not None


TestHostedRequests = HostedRequestsMachine.TestCase
