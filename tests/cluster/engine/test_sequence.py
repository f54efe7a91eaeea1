import pytest

from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import FinishReason, GenerationRequest, SamplingParams, Usage
from cluster.engine.sequence import EngineSequence, SequenceStatus
from cluster.errors import PromptTooLong, RequestError
from tests.support.decisions import TENANT, decision_over


def create(
    prompt: tuple[int, ...] = (1, 2, 3),
    resumed: tuple[int, ...] = (),
    *,
    max_model_len: int = 16,
    **sampling: object,
) -> EngineSequence:
    request = GenerationRequest(
        request_id=RequestId("r"),
        tenant=TENANT,
        prompt_token_ids=prompt,
        sampling=SamplingParams(**{"max_tokens": 4, **sampling}),
        decision=decision_over(),
        resumed_token_ids=resumed,
    )
    return EngineSequence.create(
        request,
        namespace="ns",
        adapters=((Slot(1), 0.5),),
        stop_token_ids=frozenset({0}),
        max_model_len=max_model_len,
    )


def test_starts_with_its_prompt_waiting() -> None:
    sequence = create()
    assert sequence.token_ids == [1, 2, 3]
    assert (sequence.num_tokens, sequence.num_generated, sequence.num_uncomputed) == (3, 0, 3)
    assert sequence.is_prefilling
    assert sequence.status is SequenceStatus.WAITING
    assert not sequence.is_finished
    assert sequence.adapters == ((1, 0.5),)
    assert sequence.usage == Usage(prompt_tokens=3, completion_tokens=0)


def test_resumed_tokens_are_generated_and_still_to_be_computed() -> None:
    sequence = create(resumed=(7, 8))
    assert sequence.token_ids == [1, 2, 3, 7, 8]
    assert (sequence.prompt_len, sequence.num_generated, sequence.num_uncomputed) == (3, 2, 5)
    assert sequence.generated_token_ids == [7, 8]
    assert sequence.max_len == 7
    assert sequence.usage.completion_tokens == 2


def test_the_newest_token_alone_is_not_prefill() -> None:
    sequence = create()
    sequence.num_computed = 2
    assert not sequence.is_prefilling


@pytest.mark.parametrize(
    ("max_tokens", "max_model_len", "max_len"), [(4, 16, 7), (100, 16, 16), (0, 16, 3)]
)
def test_length_is_bounded_by_request_and_context(
    max_tokens: int, max_model_len: int, max_len: int
) -> None:
    assert create(max_tokens=max_tokens, max_model_len=max_model_len).max_len == max_len


@pytest.mark.parametrize(
    ("resumed", "sampling", "reason"),
    [
        ((), {}, None),
        ((5,), {}, None),
        ((0,), {}, FinishReason.STOP),
        ((0,), {"ignore_eos": True}, None),
        ((9,), {"stop_token_ids": (9,)}, FinishReason.STOP),
        ((9,), {"stop_token_ids": (9,), "ignore_eos": True}, FinishReason.STOP),
        ((5, 5, 5, 5), {}, FinishReason.LENGTH),
        ((5, 5, 5, 0), {}, FinishReason.STOP),  # the stop token counts before the length
        ((), {"max_tokens": 0}, FinishReason.LENGTH),
    ],
)
def test_end_by_tokens(
    resumed: tuple[int, ...], sampling: dict[str, object], reason: FinishReason | None
) -> None:
    assert create(resumed=resumed, **sampling).end_by_tokens is reason


def test_a_prompt_that_ends_with_a_stop_token_is_not_stopped() -> None:
    assert create(prompt=(1, 0)).end_by_tokens is None


def test_longest_prompt() -> None:
    assert create(prompt=(1,) * 15).max_len == 16
    with pytest.raises(PromptTooLong, match="16 tokens; the context window is 16") as caught:
        create(prompt=(1,) * 16)
    assert caught.value.param == "prompt"


def test_refuses_what_cannot_be_generated() -> None:
    with pytest.raises(RequestError, match="no tokens") as empty:
        create(prompt=())
    assert empty.value.param == "prompt"
    with pytest.raises(RequestError, match="max_tokens is -1") as negative:
        create(max_tokens=-1)
    assert negative.value.param == "max_tokens"
