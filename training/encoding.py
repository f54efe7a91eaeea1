"""Examples as tokens, in exactly the form the server gives a single user message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cluster.errors import TrainingDataError
from training.jsonl import Example

IGNORED = -100
_SHORTEST_SHARED_PREFIX = 8


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of the chat prompt and of the answer with its end-of-turn token."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return self.prompt_ids + self.completion_ids


@dataclass(frozen=True)
class EncodedBatch:
    """Examples padded on the left, so that all answers end in the last column.

    A chat template opens every prompt with the same tokens. They are kept once, in `prefix_ids`,
    and the rows hold what follows: a step then computes the prefix once and not once per row.
    """

    prefix_ids: torch.Tensor  # int64 [1, P], P may be 0
    input_ids: torch.Tensor  # int64 [B, L]
    attention_mask: torch.Tensor  # int64 [B, P + L], 0 at padding
    position_ids: torch.Tensor  # int64 [B, L]
    labels: torch.Tensor  # int64 [B, K]: the next tokens of the last K + 1 columns but the last
    n_targets: int  # labels that are not IGNORED

    @property
    def prompt_mask(self) -> torch.Tensor:
        """bool [B, L], true where `input_ids` holds a prompt's token, not padding or answer."""
        mask = self.attention_mask[:, self.prefix_ids.shape[1] :].bool()
        mask[:, -self.labels.shape[1] :] &= self.labels == IGNORED
        return mask


def chat_prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Encode one user message with the assistant's turn opened."""
    encoded = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    return list(encoded["input_ids"])


def encode_examples(
    tokenizer: Any, examples: Sequence[Example], *, max_tokens: int
) -> list[EncodedExample]:
    """Encode all examples.

    Raises:
        TrainingDataError: an example is longer than `max_tokens`; the message has its number.
    """
    encoded = []
    for number, example in enumerate(examples, 1):
        answer = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        item = EncodedExample(
            prompt_ids=tuple(chat_prompt_ids(tokenizer, example.prompt)),
            completion_ids=(*answer, tokenizer.eos_token_id),
        )
        if len(item.ids) > max_tokens:
            raise TrainingDataError(
                f"example {number} has {len(item.ids)} tokens, more than max_tokens={max_tokens}"
            )
        encoded.append(item)
    return encoded


def collate(
    examples: Sequence[EncodedExample], *, pad_id: int, share_prefix: bool = True
) -> EncodedBatch:
    """Pad examples into one batch; labels cover the answers only.

    Without `share_prefix` every row keeps its whole prompt.
    """
    prompts = [example.prompt_ids for example in examples]
    shared = _shared_prefix_length(prompts) if share_prefix else 0
    rows = [example.ids[shared:] for example in examples]
    width = max(map(len, rows))
    n_labels = max(len(example.completion_ids) for example in examples)
    input_ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), shared + width), dtype=torch.int64)
    mask[:, :shared] = 1
    positions = torch.full((len(rows), width), shared)
    labels = torch.full((len(rows), n_labels), IGNORED)
    for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
        input_ids[index, -len(row) :] = torch.tensor(row)
        mask[index, -len(row) :] = 1
        positions[index, -len(row) :] = torch.arange(shared, shared + len(row))
        labels[index, -len(example.completion_ids) :] = torch.tensor(example.completion_ids)
    return EncodedBatch(
        prefix_ids=torch.tensor([examples[0].ids[:shared]], dtype=torch.int64),
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        labels=labels,
        n_targets=sum(len(example.completion_ids) for example in examples),
    )


def _shared_prefix_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """Count the tokens that all prompts open with, less one so that every row keeps a prompt
    token."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length if length >= _SHORTEST_SHARED_PREFIX else 0
