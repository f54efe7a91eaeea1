"""Blocks of the prefix cache are shared by what is applied, and by nothing else."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: its prefix cache is not tried")

from engines import COUNT, generate
from small_model import SmallModel
from vllm_weighted_lora import mixture_request

pytestmark = pytest.mark.slow


def ask(llm: Any, prompt: list[int], request: Any) -> tuple[int, list[int]]:
    """Return how many tokens came out of the cache, and the answer."""
    (output,) = generate(llm, [prompt], [request])
    return output.num_cached_tokens, list(output.outputs[0].token_ids)


def test_equal_mixtures_share_and_others_do_not(resident: Any, small: SmallModel) -> None:
    prompt = small.prompt(50, 100)
    terms = [("rank8", 0.5), ("rank2", -0.5)]
    assert ask(resident, prompt, mixture_request(terms))[0] == 0
    assert ask(resident, prompt, mixture_request(terms[::-1]))[0] == 96
    assert ask(resident, prompt, mixture_request([("rank8", 0.5), ("rank2", -0.25)]))[0] == 0
    assert ask(resident, prompt, mixture_request([("rank8", 0.5)]))[0] == 0
    assert ask(resident, prompt, None)[0] == 0


def test_a_key_decides_which_share(resident: Any, small: SmallModel) -> None:
    prompt = small.prompt(51, 100)
    terms = [("rank8", 0.5), ("rank2", -0.5)]
    assert ask(resident, prompt, mixture_request(terms, "content-1"))[0] == 0
    assert ask(resident, prompt, mixture_request(terms, "content-1"))[0] == 96
    assert ask(resident, prompt, mixture_request(terms, "content-2"))[0] == 0
    assert ask(resident, prompt, mixture_request(terms))[0] == 0


def test_one_key_for_other_names_of_the_same_content(crowded: Any, small: SmallModel) -> None:
    prompt = small.prompt(52, 100)
    wanted = small.answer(prompt, [("rank8", 0.5)], COUNT).tokens
    for name, cached in (("1@digest", 0), ("2@digest", 96)):
        crowded.collective_rpc("load_adapter", args=(name, small.folder("rank8")))
        assert ask(crowded, prompt, mixture_request([(name, 0.5)], "digest=0.5")) == (
            cached,
            wanted,
        )
        crowded.collective_rpc("unload_adapter", args=(name,))


def test_a_name_that_is_loaded_again_with_other_content(crowded: Any, small: SmallModel) -> None:
    prompt = small.prompt(53, 100)
    for content in ("rank8", "rank2"):
        crowded.collective_rpc("load_adapter", args=("again", small.folder(content)))
        wanted = small.answer(prompt, [(content, 1.0)], COUNT).tokens
        assert ask(crowded, prompt, mixture_request([("again", 1.0)])) == (0, wanted)
        assert ask(crowded, prompt, mixture_request([("again", 1.0)])) == (96, wanted)
        crowded.collective_rpc("unload_adapter", args=("again",))


def test_two_contents_under_one_key_at_once_keep_their_weights(
    resident: Any, small: SmallModel
) -> None:
    prompts = [small.prompt(54, 10), small.prompt(55, 10)]
    requests = [
        mixture_request([("rank8", 1.0)], "a key that is too wide"),
        mixture_request([("rank2", 1.0)], "a key that is too wide"),
    ]
    outputs = generate(resident, prompts, requests)
    for prompt, name, output in zip(prompts, ("rank8", "rank2"), outputs, strict=True):
        wanted = small.answer(prompt, [(name, 1.0)], COUNT).tokens
        assert list(output.outputs[0].token_ids) == wanted
