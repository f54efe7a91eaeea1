"""Private parts of vLLM are where this package expects them; a part that moved is named."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: its private parts are not checked")

from vllm_weighted_lora.touchpoints import ALL, Touchpoint, missing


@pytest.mark.parametrize("point", ALL, ids=lambda point: f"{point.module}:{point.name}")
def test_vllm_has_it(point: Touchpoint) -> None:
    assert missing([point]) == []


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (Touchpoint("vllm.lora.request", "Gone", "w"), "vllm.lora.request.Gone is gone (w)"),
        (Touchpoint("vllm.gone", "Gone", "w"), "vllm.gone.Gone is gone (w)"),
        (
            Touchpoint("vllm.lora.request", "LoRARequest", "w", ("lora_name", "other")),
            "takes no other any more (w)",
        ),
        (
            Touchpoint("vllm.lora.request", "LoRARequest", "w", mentions=("not there",)),
            "no longer has not there (w)",
        ),
    ],
)
def test_what_moved_is_named(point: Touchpoint, words: str) -> None:
    (fault,) = missing([point])
    assert words in fault


def test_parts_are_listed_once() -> None:
    names = [(point.module, point.name) for point in ALL]
    assert len(names) == len(set(names))
