"""Requests of every kind in one batch answer as each does alone, and as PEFT does."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.base_model.source import ModelLocation
from deployments.local.quickstart import DEMO_ADAPTERS
from kernels.tolerances import tolerance
from testing.local_cluster import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
MIXED = [{"name": "json", "weight": 0.7}, {"name": "sql", "weight": 0.3}]
NEGATIVE = [{"name": "json", "weight": 1.2}, {"name": "shell", "weight": -0.4}]

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("acme", {"model": BASE, "prompt": "The weather today is"}),
    ("acme", {"model": "sql", "prompt": "Show all orders from Rome"}),
    ("acme", {"model": "cron", "prompt": "every hour at minute 15"}),
    ("acme", {"model": BASE, "adapters": MIXED, "prompt": "Ann is 31 and lives in Oslo."}),
    ("acme", {"model": BASE, "adapters": NEGATIVE, "prompt": "Bob is 42 and lives in Rome."}),
    ("acme", {"model": "auto", "prompt": "count the files in /var/log"}),
    ("globex", {"model": BASE, "prompt": "The weather today is"}),
    ("globex", {"model": "tickets", "prompt": "I cannot log in since this morning"}),
    ("globex", {"model": "json", "prompt": "Ann is 31 and lives in Oslo."}),
    ("globex", {"model": "auto", "prompt": "the third of March 2021"}),
]


def ask(cluster: LocalCluster, tenant: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = cluster.post("/v1/completions", tenant, {"max_tokens": 20, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    return {"text": choice["text"], "finish": choice["finish_reason"]}


def test_batched_equals_alone(cluster: LocalCluster) -> None:
    alone = [ask(cluster, tenant, body) for tenant, body in REQUESTS]
    together = REQUESTS * 3
    barrier = threading.Barrier(len(together))

    def one(item: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        barrier.wait()
        return ask(cluster, *item)

    with ThreadPoolExecutor(len(together)) as pool:
        batched = list(pool.map(one, together))
    assert batched == alone * 3
    assert len({answer["text"] for answer in alone}) >= 8


@pytest.mark.parametrize("terms", [MIXED, NEGATIVE], ids=["convex", "negative"])
def test_logprobs_agree_with_peft(
    cluster: LocalCluster, base_model: ModelLocation, terms: list[dict[str, Any]]
) -> None:
    """The mixture against PEFT's exact ``cat`` merge of the same adapters and weights."""
    prompt = "Ann is 31 and lives in Oslo."
    body = {"model": BASE, "adapters": terms, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    answer = cluster.post("/v1/completions", "acme", {**body, "logprobs": 10}).json()
    (served,) = answer["choices"][0]["logprobs"]["top_logprobs"]

    tokenizer = AutoTokenizer.from_pretrained(base_model.path)
    base = AutoModelForCausalLM.from_pretrained(base_model.path, dtype=torch.float32)
    names = [term["name"] for term in terms]
    model = PeftModel.from_pretrained(base, DEMO_ADAPTERS / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(DEMO_ADAPTERS / name, adapter_name=name)
    model.add_weighted_adapter(
        names, [term["weight"] for term in terms], "merged", combination_type="cat"
    )
    model.set_adapter("merged")
    with torch.inference_mode():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    expected = torch.log_softmax(logits.float(), dim=-1)
    limits = tolerance("lora", torch.float32)
    top = torch.topk(expected, 10)
    scale = max(1.0, float(expected.abs().max()))
    for value, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        text = tokenizer.decode([token])
        assert served[text] == pytest.approx(value, rel=limits.rtol, abs=limits.atol * scale), text
