"""Structured output through a whole engine, over a model whose tokens are characters."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cluster.domain.request import FinishReason, SamplingParams
from cluster.engine.sampling.grammar import MAX_COMPILED, GrammarCompiler
from cluster.errors import RequestError
from tests.support.engines import RunningEngine, make_request

EOS = 1
VOCAB = 97
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["ann", "bob"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
TIGHT = {"whitespace_flexible": False}
JSON = LLMatcher.grammar_from_json_schema(SCHEMA, defaults=TIGHT)
DATE = LLMatcher.grammar_from_regex("20[0-9]{2}-[01][0-9]-[0-3][0-9]")
LIST = LLMatcher.grammar_from_lark('start: "[" item ("," item){2,4} "]"\nitem: /[a-c]{2}/')


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return a tokenizer of two tokens without text, and one for each printable ASCII character."""
    characters = {chr(code): chr(code) for code in range(33, 127)} | {" ": "Ġ"}
    vocabulary = {"<pad>": 0, "</s>": EOS}
    for spelled in characters.values():
        vocabulary[spelled] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


@pytest.fixture(scope="module")
def folder(
    tiny_model: Callable[..., Path],
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    made = tmp_path_factory.mktemp("structured") / "model"
    shutil.copytree(tiny_model("llama", eos_token_id=EOS), made)
    tokenizer.save(str(made / "tokenizer.json"))
    return made


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., RunningEngine]]:
    made: list[RunningEngine] = []

    def make(**config: object) -> RunningEngine:
        made.append(RunningEngine(folder, **config))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def wish(grammar: str, **options) -> SamplingParams:
    fields = {"max_tokens": 90, "temperature": 1.0, "grammar": grammar}
    return SamplingParams(**(fields | options))


def text_of(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_every_answer_fits_its_grammar(
    make: Callable[..., RunningEngine], tokenizer: Tokenizer, temperature: float
) -> None:
    """Different grammars and free text in one batch; each ends by itself."""
    engine = make()
    for seed in range(4):
        for name, grammar in {"json": JSON, "date": DATE, "list": LIST, "free": ""}.items():
            params = wish(grammar, temperature=temperature, seed=seed, max_tokens=80)
            engine.submit(make_request(f"{name} {seed}", [5, 6, 7, 8 + seed], params))
        jsons, date, items, _ = engine.wait(
            *(f"{n} {seed}" for n in ("json", "date", "list", "free"))
        )
        for answer in (jsons, date, items):
            assert answer.finish_reason is FinishReason.STOP
            assert answer.tokens[-1] == EOS
        jsonschema.validate(json.loads(text_of(tokenizer, jsons.tokens)), SCHEMA)
        year, month, day = text_of(tokenizer, date.tokens).split("-")
        assert (len(year), len(month), len(day)) == (4, 2, 2)
        inner = text_of(tokenizer, items.tokens)[1:-1].split(",")
        assert 3 <= len(inner) <= 5
        assert all(len(item) == 2 and set(item) <= set("abc") for item in inner)


def test_batched_equals_alone_and_resumed_equals_whole(
    make: Callable[..., RunningEngine],
) -> None:
    engine = make()
    wishes = {
        f"{kind} {seed}": wish(grammar, seed=seed, presence_penalty=0.5 * seed)
        for kind, grammar in {"json": JSON, "date": DATE, "list": LIST}.items()
        for seed in (0, 1)
    }
    alone = {
        name: engine.ask(make_request(f"{name} alone", [9, 4], params)).tokens
        for name, params in wishes.items()
    }
    for name, params in wishes.items():
        engine.submit(make_request(name, [9, 4], params))
    for name, answer in zip(wishes, engine.wait(*wishes), strict=True):
        assert answer.tokens == alone[name]
    for name, params in wishes.items():
        for had in (1, 6, len(alone[name]) - 1):
            resumed = tuple(alone[name][:had])
            request = make_request(f"{name} {had}", [9, 4], params, resumed_token_ids=resumed)
            assert engine.ask(request).tokens == alone[name][had:]


def test_preempted_equals_not(make: Callable[..., RunningEngine]) -> None:
    answers = []
    for engine in (make(), make(kv_blocks=16, max_model_len=64)):
        for seed in range(4):
            params = wish(JSON, seed=seed, max_tokens=50)
            engine.submit(make_request(f"r{seed}", [9, 4, seed], params))
        answers.append([a.tokens for a in engine.wait(*(f"r{seed}" for seed in range(4)))])
    assert engine.engine.stats().preemptions > 0
    assert answers[0] == answers[1]


def test_adapters_keep_to_the_grammar(
    make: Callable[..., RunningEngine], tokenizer: Tokenizer
) -> None:
    import torch

    engine = make()
    generator = torch.Generator().manual_seed(3)
    for slot in (0, 1):
        tensors = {
            path: (
                torch.randn(4, d_in, generator=generator) * 0.2,
                torch.randn(d_out, 4, generator=generator) * 0.2,
                1.0,
            )
            for path, (d_out, d_in) in engine.built.module_shapes.items()
        }
        engine.load(slot, tensors)
    params = wish(JSON, temperature=0.0)
    answer = engine.ask(make_request("mixed", [9, 4], params), mixture=((0, 0.7), (1, -0.4)))
    jsonschema.validate(json.loads(text_of(tokenizer, answer.tokens)), SCHEMA)


def test_length_ends_it_before_the_grammar_does(make: Callable[..., RunningEngine]) -> None:
    answer = make().ask(make_request("r", [9, 4], wish(JSON, max_tokens=5)))
    assert answer.finish_reason is FinishReason.LENGTH


def test_a_token_after_a_complete_text_is_only_the_end(folder: Path, tokenizer: Tokenizer) -> None:
    state = GrammarCompiler(folder, VOCAB, frozenset({EOS})).start(DATE)
    tokens = tokenizer.encode("2026-11-2").ids
    assert {tokenizer.decode([i]) for i in state.allowed(tokens).nonzero()[0]} == set("0123456789")
    assert state.allowed([*tokens, *tokenizer.encode("1").ids]).nonzero()[0].tolist() == [EOS]


def test_what_cannot_be_followed_is_refused(
    make: Callable[..., RunningEngine],
    tiny_model: Callable[..., Path],
    folder: Path,
) -> None:
    engine = make()
    for params, message in (
        (wish(LLMatcher.grammar_from_regex("(")), "cannot be compiled"),
        (wish("not JSON"), "cannot be compiled"),
        (wish(DATE, ignore_eos=True), "ignore_eos"),
        (wish(DATE, min_tokens=3), "min_tokens"),
    ):
        with pytest.raises(RequestError, match=message):
            engine.engine.submit(make_request("r", [9, 4], params), "n", ())
    with pytest.raises(RequestError, match="does not accept"):
        engine.engine.submit(
            make_request("r", [9, 4], wish(DATE), resumed_token_ids=(0, 0)), "n", ()
        )
    with pytest.raises(RequestError, match="end of sequence"):
        GrammarCompiler(folder, VOCAB, frozenset()).start(DATE)
    with pytest.raises(RequestError, match="tokenizer"):
        GrammarCompiler(tiny_model("llama"), VOCAB, frozenset({EOS})).start(DATE)


def test_compiled_grammars_are_kept_and_bounded(folder: Path) -> None:
    compiler = GrammarCompiler(folder, VOCAB, frozenset({EOS}))
    kept = compiler._matcher(DATE)
    for number in range(MAX_COMPILED - 1):
        compiler.start(LLMatcher.grammar_from_regex(f"a{{{number + 1}}}"))
    assert compiler._matcher(DATE) is kept
    for number in range(MAX_COMPILED):
        compiler.start(LLMatcher.grammar_from_regex(f"b{{{number + 1}}}"))
    assert compiler._matcher(DATE) is not kept
    assert len(compiler._compiled) == MAX_COMPILED
