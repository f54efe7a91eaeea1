"""Mixtures in vLLM compute what merged weights compute."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: mixtures are not compared with merging")

from engines import COUNT, compare, generate
from small_model import SmallModel
from vllm.lora.request import LoRARequest
from vllm_weighted_lora import mixture_request

pytestmark = pytest.mark.slow
WEIGHTS = (0.4, -0.3, 1.6, 0.25, -1.2, 0.7, 2.5, -0.05)


def test_one_batch_of_base_singles_and_mixtures(resident: Any, small: SmallModel) -> None:
    mixtures: list[list[tuple[str, float]]] = [[]]
    mixtures += [[(name, 1.0)] for name in small.names]
    mixtures += [
        list(zip(small.names[:count], WEIGHTS, strict=False))
        for count in range(1, len(small.names) + 1)
    ]
    mixtures += [[("rank16", 2.0), ("rank1", -3.0)], [("rslora", -1.0)], [], [("rank2", 0.0)]]
    requests = [mixture_request(mixture) if mixture else None for mixture in mixtures]
    compare(resident, small, mixtures, requests)


def test_many_mixtures_of_few_adapters_run_at_once(resident: Any, small: SmallModel) -> None:
    mixtures = [[("rank8", 1 - part / 20), ("rank2", part / 20)] for part in range(21)]
    compare(resident, small, mixtures, [mixture_request(mixture) for mixture in mixtures])


def test_the_mixtures_differ_from_the_base(small: SmallModel) -> None:
    prompt = small.prompt(0, 9)
    answers = {
        tuple(small.answer(prompt, mixture, COUNT).tokens)
        for mixture in ([], [("rank8", 1.0)], [("rank8", 0.5), ("rank2", -0.5)])
    }
    assert len(answers) == 3


def test_vllms_own_requests_work_as_before(crowded: Any, small: SmallModel) -> None:
    own = [
        LoRARequest(name, number, small.folder(name)) for number, name in enumerate(small.names, 1)
    ]
    compare(crowded, small, [[(name, 1.0)] for name in small.names], own)


def test_equal_mixtures_give_equal_answers_in_any_order(resident: Any, small: SmallModel) -> None:
    prompt = small.prompt(3, 20)
    terms = [("rank8", 0.7), ("patterns", -1.3), ("head", 0.2)]
    one, other = generate(
        resident, [prompt] * 2, [mixture_request(terms), mixture_request(terms[::-1])]
    )
    assert one.outputs[0].token_ids == other.outputs[0].token_ids
