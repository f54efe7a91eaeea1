"""Perplexity is transformers' own, and a comparison says what changed."""

import math

import pytest
import torch
import transformers

from benchmarks.perplexity.compare import VARIANTS, compare, perplexity, render

TOKENS = [(7 * i * i + 3 * i + 33) % 97 for i in range(33)]


def test_perplexity_of_a_uniform_guess():
    scored = []

    def score(tokens):
        scored.append(list(tokens))
        return -math.log(50) * (len(tokens) - 1)

    assert perplexity(score, list(range(23)), 8) == pytest.approx(50)
    assert [part[0] for part in scored] == [0, 7, 14, 21]
    assert sum(len(part) - 1 for part in scored) == 22


def test_a_comparison(tiny_model, monkeypatch: pytest.MonkeyPatch):
    class Tokenizer:
        input_ids = TOKENS

    monkeypatch.setattr(
        "benchmarks.perplexity.compare.AutoTokenizer.from_pretrained",
        lambda *_args, **_options: lambda _text: Tokenizer,
    )
    ticks = iter(range(10_000))
    folder = tiny_model("llama")
    report = compare(
        folder,
        "tiny",
        ["float32", "int8"],
        text="",
        threads=torch.get_num_threads(),
        rounds=2,
        clock=lambda: float(next(ticks)),
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor([TOKENS])
    with torch.inference_mode():
        loss = model(tokens, labels=tokens).loss
    first, second = report.variants
    assert first.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)
    assert (first.change, first.speedup) == (0.0, {1: 1.0, 16: 1.0})
    assert second.change != 0
    assert abs(second.change) < 0.2
    assert second.step_ms == {1: 1000.0, 16: 1000.0}
    page = render(report, "python -m benchmarks.perplexity")
    assert f"| int8 | {second.perplexity:.4f} |" in page
    assert set(VARIANTS) == {"float32", "int8", "bfloat16"}
