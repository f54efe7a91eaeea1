import pytest
import torch
from transformers import AutoTokenizer

from cluster.base_model.source import ModelLocation
from cluster.errors import TrainingDataError
from training.base_model import load_base
from training.encoding import IGNORED, collate, encode_examples
from training.jsonl import Example
from training.loss import completion_loss

SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"
EXAMPLES = [Example("hello", "hi"), Example("what is it?", "a cat"), Example("x", "1 + 1 = 2")]


def test_an_example_is_the_chat_prompt_the_answer_and_the_end(chat_base: ModelLocation) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base.path)
    (encoded,) = encode_examples(tokenizer, EXAMPLES[:1], max_tokens=100)
    text = f"{SYSTEM}<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>"
    assert tokenizer.decode(encoded.ids) == text
    assert tokenizer.decode(encoded.completion_ids) == "hi<|im_end|>"


def test_a_long_example_is_refused_by_number(chat_base: ModelLocation) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base.path)
    with pytest.raises(TrainingDataError, match=r"example 2 has .* max_tokens=45"):
        encode_examples(tokenizer, [Example("x", "y"), Example("z" * 40, "y")], max_tokens=45)


def test_the_common_opening_is_kept_once(chat_base: ModelLocation) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base.path)
    encoded = encode_examples(tokenizer, EXAMPLES, max_tokens=100)
    batch = collate(encoded, pad_id=1)
    assert tokenizer.decode(batch.prefix_ids[0]) == f"{SYSTEM}<|im_start|>user\n"
    for row, example in enumerate(encoded):
        kept = batch.attention_mask[row, batch.prefix_ids.shape[1] :].bool()
        ids = [*batch.prefix_ids[0].tolist(), *batch.input_ids[row][kept].tolist()]
        assert tuple(ids) == example.ids
        labels = batch.labels[row][batch.labels[row] != IGNORED]
        assert tuple(labels.tolist()) == example.completion_ids
        assert batch.position_ids[row, -1] == len(example.ids) - 1
    assert batch.n_targets == sum(len(e.completion_ids) for e in encoded)


def test_equal_prompts_still_leave_a_prompt_token_in_every_row(chat_base: ModelLocation) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base.path)
    encoded = encode_examples(tokenizer, [EXAMPLES[0]] * 2, max_tokens=100)
    batch = collate(encoded, pad_id=1)
    assert batch.input_ids.shape[1] == len(encoded[0].completion_ids) + 1


def test_the_loss_is_that_of_each_example_alone(chat_base: ModelLocation) -> None:
    """Batched, padded and with a shared prefix, it equals the mean over all answers' tokens."""
    model, tokenizer = load_base(chat_base.path)
    encoded = encode_examples(tokenizer, EXAMPLES, max_tokens=100)
    total = torch.zeros(())
    for example in encoded:
        logits = model(input_ids=torch.tensor([example.ids])).logits[0].log_softmax(-1)
        for offset, token in enumerate(example.completion_ids):
            total = total - logits[len(example.prompt_ids) - 1 + offset, token]
    expected = total / sum(len(e.completion_ids) for e in encoded)
    loss = completion_loss(model, collate(encoded, pad_id=1))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss_gradient, expected_gradient = (
        torch.autograd.grad(value, model.model.layers[0].self_attn.k_proj.weight)[0]
        for value in (loss, expected)
    )
    torch.testing.assert_close(loss_gradient, expected_gradient, rtol=1e-4, atol=1e-6)
