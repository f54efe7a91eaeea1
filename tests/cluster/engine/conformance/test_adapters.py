"""Checks what every engine promises about adapters, mixtures and changes of them."""

import math

import pytest

from cluster.domain.request import FinishReason, SamplingParams
from cluster.engine.mixing import Mixing
from cluster.engine.spans import Span
from cluster.errors import AdapterError, EngineError
from tests.support.engines import make_request
from tests.support.port_rig import PortRig, mix, prompt

SHARES_AN_ENGINE = True
LONG = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)


def answer(rig: PortRig, name: str, *terms: tuple[int, float]) -> list[int]:
    return rig.ask(make_request(name, prompt(13), LONG), mix(*terms)).tokens


def test_an_adapter_changes_the_answer_and_leaves_the_base_alone(rig: PortRig) -> None:
    base = answer(rig, "before")
    rig.load(0, seed=1)
    assert answer(rig, "with", (0, 1.0)) != base
    assert answer(rig, "after") == base


def test_weights_count(rig: PortRig) -> None:
    rig.load(0, seed=1)
    rig.load(1, seed=2)
    answers = [
        answer(rig, f"{n}", *terms)
        for n, terms in enumerate(
            [
                [(0, 1.0)],
                [(1, 1.0)],
                [(0, 0.5), (1, 0.5)],
                [(0, 0.9), (1, -0.7)],
                [(0, -1.0)],
            ]
        )
    ]
    assert len(set(map(tuple, answers))) == len(answers)


def test_a_weight_of_zero_is_the_base(rig: PortRig) -> None:
    rig.load(0, seed=1)
    assert answer(rig, "none", (0, 0.0)) == answer(rig, "base")


def test_an_adapter_and_its_negative_cancel(rig: PortRig) -> None:
    rig.load(0, seed=1)
    rig.load(1, seed=1)
    assert answer(rig, "both", (0, 1.0), (1, -1.0)) == answer(rig, "base")


def test_mixtures_do_not_disturb_each_other_in_a_batch(rig: PortRig) -> None:
    rig.load(0, seed=1)
    rig.load(1, seed=2)
    cases = {"base": mix(), "a": mix((0, 1.0)), "b": mix((1, 0.7)), "c": mix((0, 0.4), (1, -0.3))}
    alone = {name: answer(rig, f"alone-{name}", *terms) for name, terms in cases.items()}
    for name, terms in cases.items():
        rig.submit(make_request(name, prompt(13), LONG), terms)
    rig.wait(*cases)
    assert {name: rig.told[name].tokens for name in cases} == alone


def test_a_slot_can_be_filled_again_while_it_is_idle(rig: PortRig) -> None:
    rig.load(0, seed=1)
    first = answer(rig, "first", (0, 1.0))
    rig.adapters.clear(0)
    rig.load(0, seed=2)
    # Another KV namespace, as another version has.
    second = rig.ask(make_request("second", prompt(13), LONG), mix((0, 0.999999))).tokens
    assert second != first


def test_a_slot_is_filled_while_another_one_is_in_use(rig: PortRig) -> None:
    rig.load(0, seed=1)
    alone = answer(rig, "alone", (0, 1.0))
    files = rig.read(rig.folder(2))
    rig.submit(make_request("a", prompt(13), LONG), mix((0, 1.0)))
    rig.wait_until(lambda: bool(rig.told["a"].tokens))
    rig.adapters.place(1, files)
    assert rig.wait("a")[0].tokens == alone


def test_slots_say_what_they_hold(rig: PortRig) -> None:
    folder = rig.folder(1)
    read = rig.read(folder)
    ranks = dict.fromkeys((m for m in rig.built.module_shapes if m.endswith("_proj")), 4)
    assert rig.adapters.nbytes(0) == 0
    rig.adapters.place(0, read)
    assert rig.adapters.nbytes(0) == rig.adapters.required_nbytes(ranks) == read.nbytes > 0
    assert read.manifest.max_rank == 4
    rig.adapters.clear(0)
    rig.adapters.clear(0)
    assert rig.adapters.nbytes(0) == 0


@pytest.mark.parametrize("slot", [-1, 4])
def test_a_slot_out_of_range_is_refused(rig: PortRig, slot: int) -> None:
    read = rig.read(rig.folder(1))
    with pytest.raises(ValueError, match="slot"):
        rig.adapters.place(slot, read)
    with pytest.raises(ValueError, match="slot"):
        rig.adapters.clear(slot)


def test_ranks_of_unknown_modules_are_refused(rig: PortRig) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        rig.adapters.required_nbytes({"nowhere": 4})


def test_a_broken_adapter_is_refused_and_fills_no_slot(rig: PortRig) -> None:
    folder = rig.folder(1)
    (folder / "adapter_model.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(AdapterError):
        rig.read(folder)
    assert rig.adapters.nbytes(0) == 0


def test_an_adapter_that_is_not_finite_is_refused(rig: PortRig) -> None:
    with pytest.raises(AdapterError):
        rig.read(rig.folder(1, scale=math.inf))


def test_an_empty_slot_cannot_be_used(rig: PortRig) -> None:
    rig.load(0, seed=1)
    with pytest.raises(EngineError):
        rig.submit(make_request("a", prompt(9)), mix((0, 0.5), (3, 0.5)))
    with pytest.raises(EngineError):
        rig.submit(make_request("a", prompt(9)), spans=[Span(4, "n", mix((3, 1.0)))])


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_must_be_finite(rig: PortRig, weight: float) -> None:
    rig.load(0, seed=1)
    with pytest.raises(EngineError):
        rig.submit(make_request("a", prompt(9)), mix((0, weight)))


def test_a_gate_or_router_that_is_not_there_cannot_be_named(rig: PortRig) -> None:
    rig.load(0, seed=1)
    for mixing in (Mixing(gate="nowhere"), Mixing(router="nowhere")):
        with pytest.raises(EngineError):
            rig.submit(make_request("a", prompt(9)), mix((0, 1.0)), mixing=mixing)


def test_a_prompt_may_change_adapters_where_it_invokes_them(rig: PortRig) -> None:
    rig.load(0, seed=1)
    invoked = Span(8, "invoked", mix((0, 1.0)))
    rig.submit(make_request("a", prompt(13), LONG), spans=[invoked])
    partly = rig.wait("a")[0].tokens
    assert partly not in (answer(rig, "base"), answer(rig, "whole", (0, 1.0)))


def test_spans_must_follow_each_other(rig: PortRig) -> None:
    for starts in ((0,), (5, 5), (7, 3)):
        with pytest.raises(EngineError):
            rig.submit(make_request("a", prompt(9)), spans=[Span(s, "n", ()) for s in starts])


def reroute_after(rig: PortRig, name: str, tokens: int, *, after: int) -> list[int | None]:
    """Reroute a request to slot 1 from the engine's own thread, at its given token."""
    answers: list[int | None] = []

    def on_chunk(chunk):
        if chunk.request_id == name and len(rig.told[name].tokens) == tokens and not answers:
            answers.append(rig.engine.reroute(name, "other", mix((1, 1.0)), after=after))

    rig.on_chunk = on_chunk
    return answers


def test_a_request_is_rerouted_at_a_token(rig: PortRig) -> None:
    rig.load(0, seed=1)
    rig.load(1, seed=2)
    before = answer(rig, "alone", (0, 1.0))
    answers = reroute_after(rig, "a", 3, after=7)
    told = rig.ask(make_request("a", prompt(13), LONG), mix((0, 1.0)))
    assert answers == [7]
    assert told.tokens[:7] == before[:7]
    assert told.tokens != before
    starts = [(n, chunk.span_start) for n, chunk in enumerate(told.chunks) if chunk.span_start]
    assert len(starts) == 1
    assert starts[0][1] == 7


def test_a_reroute_that_comes_late_begins_as_soon_as_it_can(rig: PortRig) -> None:
    rig.load(0, seed=1)
    rig.load(1, seed=2)
    answers = reroute_after(rig, "a", 5, after=2)
    told = rig.ask(make_request("a", prompt(13), LONG), mix((0, 1.0)))
    assert answers[0] is not None
    assert answers[0] >= 5
    assert [chunk.span_start for chunk in told.chunks if chunk.span_start] == answers


def test_a_second_reroute_waits_for_the_first(rig: PortRig) -> None:
    rig.load(0, seed=1)
    rig.load(1, seed=2)
    refused: list[EngineError] = []

    def on_chunk(chunk):
        if len(rig.told["a"].tokens) == 2:
            rig.engine.reroute("a", "other", mix((1, 1.0)), after=8)
            try:
                rig.engine.reroute("a", "third", mix((0, 1.0)), after=9)
            except EngineError as error:
                refused.append(error)

    rig.on_chunk = on_chunk
    rig.ask(make_request("a", prompt(13), LONG), mix((0, 1.0)))
    assert len(refused) == 1


def test_what_is_not_live_cannot_be_rerouted(rig: PortRig) -> None:
    rig.load(1, seed=2)
    assert rig.engine.reroute("nobody", "n", mix((1, 1.0)), after=0) is None
    rig.ask(make_request("a", prompt(9)))
    assert rig.engine.reroute("a", "n", mix((1, 1.0)), after=0) is None
    with pytest.raises(EngineError):
        rig.engine.reroute("a", "n", mix((3, 1.0)), after=0)


def test_earlier_adapters_are_released_once_nothing_needs_them(rig: PortRig) -> None:
    rig.load(0, seed=1)
    rig.load(1, seed=2)
    expected = mix((0, 1.0))
    released: list[tuple[int | None, bool]] = []

    def on_chunk(chunk):
        told = rig.told["a"]
        if len(told.tokens) == 2 and not released:
            rig.engine.reroute("a", "other", mix((1, 1.0)), after=4)
            released.append((None, rig.engine.release_before("a", 4)))  # still to be computed
        if chunk.span_start is not None:
            released.append((chunk.span_start, rig.engine.release_before("a", chunk.span_start)))
            rig.adapters.clear(0)

    rig.on_chunk = on_chunk
    told = rig.ask(make_request("a", prompt(13), LONG), expected)
    assert released == [(None, False), (4, True)]
    assert len(told.tokens) == 16
    assert told.end.finish_reason is FinishReason.LENGTH
