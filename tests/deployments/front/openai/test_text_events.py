"""Events that are filled in are those that are encoded as a whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.front.http.sse import event
from deployments.front.openai.answers import Envelope, TextEvents
from deployments.front.openai.chat_answer import ChatAnswer
from deployments.front.openai.completion_answer import CompletionAnswer
from deployments.front.sequences.sequence_answer import Delta

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize("answer", [ChatAnswer, CompletionAnswer])
@pytest.mark.parametrize("include_usage", [False, True])
@given(text=TEXTS, model=TEXTS, index=st.integers(0, 127))
def test_filled_in_equals_encoded(
    answer: Any, include_usage: bool, text: str, model: str, index: int
) -> None:
    envelope = Envelope('an "id"', 17, model, None, logprobs=False)  # type: ignore[arg-type]
    wording = answer(envelope)
    events = TextEvents(wording, index, include_usage)
    for said in (text, "\ue000text of a chunk\ue001"):
        whole = event(wording.chunk(index, Delta(said, (1,), ()), include_usage, {}))
        assert events.encode(said) == whole
