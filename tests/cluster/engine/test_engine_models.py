"""The whole engine on tiny models: the same requests, alone and in every kind of company."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import FinishReason, SamplingParams
from cluster.errors import EngineError, ModelSourceError
from testing.waiting import wait_for
from tests.conftest import TINY_FAMILIES
from tests.support.engines import Answer, Mixture, RunningEngine, make_request

VOCAB = 97
LONG = SamplingParams(max_tokens=24, temperature=0.0)


def prompt(length: int, salt: int = 0) -> list[int]:
    return [(7 * i * i + 3 * i + salt) % VOCAB for i in range(length)]


def mix(*terms: tuple[int, float]) -> Mixture:
    return tuple((Slot(slot), weight) for slot, weight in terms)


def random_adapter(engine: RunningEngine, seed: int, rank: int, *modules: str) -> dict:
    """Make an adapter large enough to change the answers; on all modules unless some are named."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: (
            torch.randn(rank, d_in, generator=generator) * d_in**-0.5,
            torch.randn(d_out, rank, generator=generator),
            2.0 / rank,
        )
        for path, (d_out, d_in) in engine.built.module_shapes.items()
        if not modules or path.rpartition(".")[2] in modules
    }


def with_adapters(engine: RunningEngine) -> RunningEngine:
    for slot, (rank, modules) in enumerate(
        [(8, ()), (3, ()), (8, ()), (5, ("q_proj", "v_proj")), (16, ("down_proj",))]
    ):
        engine.load(slot, random_adapter(engine, slot, rank, *modules))
    return engine


CASES: dict[str, tuple[int, Mixture]] = {
    "base": (5, ()),
    "base, long": (41, ()),
    "one adapter": (13, mix((0, 1.0))),
    "the same, another prompt": (22, mix((0, 1.0))),
    "another of its shape": (7, mix((2, 0.5))),
    "mixed ranks": (17, mix((0, 0.7), (1, 0.3))),
    "negative": (9, mix((1, 1.2), (2, -0.4))),
    "partial modules": (30, mix((3, 1.0), (4, 0.8))),
}


def ask_all(engine: RunningEngine, cases: dict[str, tuple[int, Mixture]]) -> dict[str, Answer]:
    for salt, (name, (length, mixture)) in enumerate(cases.items()):
        engine.submit(make_request(name, prompt(length, salt), LONG), mixture)
    engine.wait(*cases)
    return engine.answers


@pytest.fixture
def alone(running_engine: Callable[..., RunningEngine]) -> dict[str, list[int]]:
    """Every case served by itself, uncached and in one piece."""
    engine = with_adapters(running_engine(prefix_cache=False))
    tokens = {}
    for salt, (name, (length, mixture)) in enumerate(CASES.items()):
        tokens[name] = engine.ask(make_request(name, prompt(length, salt), LONG), mixture).tokens
    return tokens


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_greedy_tokens_are_those_of_transformers(running_engine, tiny_model, family: str):
    engine = running_engine(family, max_batch_tokens=16)
    prompts = {f"{length}": prompt(length) for length in (1, 2, 5, 18, 40)}
    for name, tokens in prompts.items():
        engine.submit(make_request(name, tokens, LONG))
    engine.wait(*prompts)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model(family), dtype=torch.float32
    )
    for name, tokens in prompts.items():
        generated = reference.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
        )
        assert engine.answers[name].tokens == generated[0, len(tokens) :].tolist(), name


@pytest.mark.parametrize("window", [1, 7, 64])
def test_sliding_windows_are_honoured(tiny_model, window: int):
    folder = tiny_model("mistral", sliding_window=window)
    engine = RunningEngine(folder, max_batch_tokens=16)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = prompt(40)
    # Without a cache: transformers keeps everything in one of window 1.
    generated = reference.generate(
        torch.tensor([tokens]),
        attention_mask=torch.ones(1, 40, dtype=torch.long),
        max_new_tokens=24,
        do_sample=False,
        use_cache=False,
    )
    assert engine.ask(make_request("a", tokens, LONG)).tokens == generated[0, 40:].tolist()
    engine.stop()


def test_the_adapters_of_the_cases_matter(alone, running_engine):
    engine = running_engine()
    for salt, (name, (length, mixture)) in enumerate(CASES.items()):
        base = engine.ask(make_request(name, prompt(length, salt), LONG)).tokens
        assert (alone[name] == base) == (not mixture)


def test_batched_equals_alone(alone, running_engine):
    answers = ask_all(with_adapters(running_engine()), CASES)
    assert {name: answer.tokens for name, answer in answers.items()} == alone


def test_chunked_equals_whole(alone, running_engine):
    engine = with_adapters(running_engine(max_batch_tokens=16, max_batch_size=8))
    answers = ask_all(engine, CASES)
    assert {name: answer.tokens for name, answer in answers.items()} == alone


def test_preempted_equals_not(alone, running_engine):
    engine = with_adapters(running_engine(kv_blocks=24))
    answers = ask_all(engine, CASES)
    assert engine.engine.stats().preemptions > 0
    assert {name: answer.tokens for name, answer in answers.items()} == alone


def test_resumed_equals_uninterrupted(alone, running_engine):
    engine = with_adapters(running_engine())
    for salt, (name, (length, mixture)) in enumerate(CASES.items()):
        request = make_request(
            name, prompt(length, salt), LONG, resumed_token_ids=tuple(alone[name][: salt + 1])
        )
        assert engine.ask(request, mixture).tokens == alone[name][salt + 1 :]


def test_prefix_hits_equal_misses(alone, running_engine):
    engine = with_adapters(running_engine(kv_blocks=512))
    for again in (False, True):
        for salt, (name, (length, mixture)) in enumerate(CASES.items()):
            request = make_request(f"{name} {again}", prompt(length, salt), LONG)
            answer = engine.ask(request, mixture)
            assert answer.tokens == alone[name]
            assert answer.usage.cached_tokens == ((length - 1) // 4 * 4 if again else 0)


def test_prefixes_never_cross_namespaces(running_engine):
    engine = with_adapters(running_engine())
    tokens = prompt(20)
    base = engine.ask(make_request("base", tokens))
    adapted = engine.ask(make_request("adapted", tokens), mix((0, 1.0)))
    assert adapted.usage.cached_tokens == 0
    assert adapted.tokens != base.tokens
    tenant = engine.ask(make_request("tenant", tokens), namespace="another tenant")
    assert tenant.usage.cached_tokens == 0
    assert tenant.tokens == base.tokens


def test_a_slot_loaded_anew_applies_the_new_adapter(running_engine):
    engine = with_adapters(running_engine(prefix_cache=False))
    first = engine.ask(make_request("a", prompt(1), LONG), mix((0, 1.0))).tokens
    other = engine.ask(make_request("b", prompt(1), LONG), mix((2, 1.0))).tokens
    engine.load(0, random_adapter(engine, 2, 8))
    assert engine.ask(make_request("a", prompt(1), LONG), mix((0, 1.0))).tokens == other
    assert first != other


def test_cancelling_frees_blocks_and_leaves_others_alone(alone, running_engine):
    engine = with_adapters(running_engine(prefix_cache=False))
    cancelled = RequestId("mixed ranks")

    def cancel(chunk) -> None:
        if chunk.request_id == cancelled and chunk.finish_reason is None:
            engine.engine.cancel(cancelled)

    engine.on_chunk = cancel
    answers = ask_all(engine, CASES)
    assert answers[cancelled].finish_reason is FinishReason.CANCELLED
    assert answers[cancelled].tokens == alone[cancelled][:1]
    for name in CASES.keys() - {cancelled}:
        assert answers[name].tokens == alone[name]
    stats = engine.engine.stats()
    assert (stats.running, stats.kv_blocks_free) == (0, stats.kv_blocks_total)


@pytest.mark.parametrize(
    "options", [{}, {"top_p": 0.8}, {"top_k": 5}, {"temperature": 0.6, "top_k": 20, "top_p": 0.9}]
)
def test_seeded_answers_do_not_depend_on_the_batch(running_engine, options: dict):
    engine = with_adapters(running_engine(prefix_cache=False))
    sampling = SamplingParams(max_tokens=16, seed=1234, **options)
    mixture = mix((0, 0.6), (1, 0.4))
    alone = engine.ask(make_request("alone", prompt(11), sampling), mixture).tokens
    for other in range(5):
        params = SamplingParams(max_tokens=3 * other + 2, seed=other)
        engine.submit(make_request(f"other {other}", prompt(6 + other), params), mix((other, 1.0)))
    assert engine.ask(make_request("batched", prompt(11), sampling), mixture).tokens == alone
    resumed = make_request("resumed", prompt(11), sampling, resumed_token_ids=tuple(alone[:7]))
    assert engine.ask(resumed, mixture).tokens == alone[7:]
    another = SamplingParams(max_tokens=16, seed=1235, **options)
    assert engine.ask(make_request("another", prompt(11), another), mixture).tokens != alone
    engine.wait(*(f"other {other}" for other in range(5)))


def test_unseeded_requests_differ(running_engine):
    engine = running_engine()
    sampling = SamplingParams(max_tokens=16)
    first = engine.ask(make_request("a", prompt(5), sampling)).tokens
    assert engine.ask(make_request("b", prompt(5), sampling)).tokens != first


def test_logprobs_are_those_of_transformers(running_engine, tiny_model):
    engine = running_engine()
    sampling = SamplingParams(max_tokens=6, temperature=0.7, seed=3, logprobs=4)
    answer = engine.ask(make_request("a", prompt(9), sampling))
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt(9) + answer.tokens])).logits[0, 8:-1]
    expected = logits.log_softmax(dim=-1)
    for row, (token, found) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
        assert found.logprob == pytest.approx(expected[row, token].item(), abs=1e-4)
        best = expected[row].topk(4)
        assert [one for one, _ in found.top] == best.indices.tolist()
        assert [value for _, value in found.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_poisonous_adapter_fails_its_own_request_only(alone, running_engine):
    engine = with_adapters(running_engine())
    poison = random_adapter(engine, 9, 8)
    engine.load(5, {path: (a, b * 1e30, s) for path, (a, b, s) in poison.items()})
    engine.submit(make_request("poisoned", prompt(10), LONG), mix((5, 1.0)))
    answers = ask_all(engine, CASES)
    engine.wait("poisoned")
    assert answers["poisoned"].error_code == EngineError.code
    for name in CASES:
        assert answers[name].tokens == alone[name]
    # Its blocks are used again: what it left there must not reach anyone.
    for round_number in range(3):
        for salt, (name, (length, mixture)) in enumerate(CASES.items()):
            request = make_request(f"{name} {round_number}", prompt(length, salt), LONG)
            engine.submit(request, mixture, namespace=f"{mixture} {round_number}")
        for name in CASES:
            (answer,) = engine.wait(f"{name} {round_number}")
            assert answer.tokens == alone[name]


def test_a_step_that_raises_is_survived(running_engine, monkeypatch):
    engine = running_engine()
    expected = engine.ask(make_request("before", prompt(6))).tokens
    forward = nn.Embedding.forward
    failures = iter([torch.OutOfMemoryError("no memory")])

    def fail_once(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        for error in failures:
            raise error
        return forward(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", fail_once)
    assert engine.ask(make_request("failing", prompt(6))).error_code == EngineError.code
    assert engine.ask(make_request("after", prompt(6))).tokens == expected


def test_empty_slots_are_refused(running_engine):
    engine = running_engine()
    with pytest.raises(EngineError, match="slot 3 holds no adapter"):
        engine.engine.submit(make_request("a", prompt(4)), "n", mix((3, 1.0)))
    with pytest.raises(EngineError, match="not finite"):
        engine.engine.submit(make_request("a", prompt(4)), "n", mix((3, float("inf"))))


def test_base_only_steps_do_no_lora_work(running_engine, monkeypatch):
    engine = with_adapters(running_engine())
    monkeypatch.setattr("cluster.engine.model.lora_layers.add_lora", None)
    assert engine.ask(make_request("a", prompt(4))).finish_reason is FinishReason.LENGTH
    assert engine.ask(make_request("b", prompt(4)), mix((0, 1.0))).error_code is not None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_serves_adapters(running_engine, dtype: str):
    engine = with_adapters(running_engine(dtype=dtype))
    answers = ask_all(engine, CASES)
    assert all(len(answer.tokens) == 24 for answer in answers.values())


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ("gemma", {"use_bidirectional_attention": True}, "bidirectional"),
    ],
)
def test_unsupported_models_are_refused_by_name(tiny_model, family, overrides, message):
    with pytest.raises(ModelSourceError, match=message):
        RunningEngine(tiny_model(family, **overrides))


def save(config: transformers.PreTrainedConfig, folder) -> None:
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2), "model.layers"),
        (transformers.Gemma2Config(**SMALL, head_dim=16), "softcap"),
        (
            transformers.MixtralConfig(**SMALL, num_local_experts=2),
            "mixture-of-experts",
        ),
    ],
    ids=["gpt2", "gemma2", "mixtral"],
)
def test_unsupported_architectures_are_refused_by_name(tmp_path, config, message):
    save(config, tmp_path)
    with pytest.raises(ModelSourceError, match=message):
        RunningEngine(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelSourceError, match=r"config\.json"):
        RunningEngine(tmp_path)


def test_limits_come_from_the_model(tiny_model, tmp_path):
    engine = RunningEngine(tiny_model("llama"), max_model_len=100_000, kv_blocks=1000)
    assert engine.engine.max_model_len == 256
    engine.stop()


def test_end_of_sequence_ids_come_from_both_files(tiny_model, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model("llama_untied"))
    model.config.eos_token_id = 5
    model.generation_config.eos_token_id = [7, 9]
    model.save_pretrained(tmp_path)
    engine = RunningEngine(tmp_path)
    assert engine.engine.eos_token_ids == {5, 7, 9}
    engine.stop()


@pytest.mark.parametrize("company", [False, True])
def test_a_cleared_slot_leaves_nothing_in_memory(running_engine, company: bool):
    """Also while the base alone is asked; the last step of an adapter must not keep its storage."""
    engine = running_engine()
    engine.load(0, random_adapter(engine, 0, 8))
    bank = engine.built.bank
    engine.ask(make_request("one", prompt(9), LONG), mix((0, 1.0)))
    if company:
        engine.ask(make_request("base", prompt(9), LONG))
    entry = bank.entry(0)
    storage = StorageWeakRef(entry.lane.row(entry.position).untyped_storage())
    del entry
    bank.clear(0)
    wait_for("its storage is free", storage.expired, 10)
    assert bank.allocated_nbytes == 0
