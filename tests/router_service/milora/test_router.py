from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from router_service.milora.milora_network import MiloraRouter, tensor_shapes
from router_service.milora.milora_schema import Pooling, Weighting
from router_service.milora.module_masks import balance_loss, choose, pool
from router_service.milora.rational import gelu_coefficients, rational

pytestmark = pytest.mark.slow

POOLINGS: tuple[Pooling, ...] = ("self_attention", "mean", "last", "max")
D = 12


def random_tensors(seed: int, pooling: Pooling) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    numerator, denominator = gelu_coefficients()
    tensors = {
        name: torch.randn(shape, generator=generator)
        for name, shape in tensor_shapes(2, D, pooling).items()
    }
    return tensors | {"numerator": numerator.repeat(2, 1), "denominator": denominator.repeat(2, 1)}


def random_router(
    seed: int = 0, pooling: Pooling = "self_attention", top_k: int = 3, **options: Any
) -> MiloraRouter:
    return MiloraRouter(random_tensors(seed, pooling), top_k=top_k, pooling=pooling, **options)


def test_the_activation_starts_as_gelu() -> None:
    numerator, denominator = gelu_coefficients()
    assert len(numerator) == 7
    assert len(denominator) == 5
    x = torch.linspace(-3, 3, 1001)
    gelu = torch.nn.functional.gelu(x)
    assert (rational(x, numerator, denominator) - gelu).abs().max() < 1.5e-4


@settings(max_examples=25)
@given(st.lists(st.floats(-2, 2), min_size=12, max_size=12), st.floats(-3, 3))
def test_the_activation_is_the_papers_formula(coefficients: list[float], x: float) -> None:
    a, b = coefficients[:7], coefficients[7:]
    above = sum(a[j] * x**j for j in range(7))
    below = 1 + abs(sum(b[i - 1] * x**i for i in range(1, 6)))
    found = rational(torch.tensor([x]), torch.tensor(a), torch.tensor(b))
    assert float(found) == pytest.approx(above / below, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 50),
    left=st.integers(0, 4),
    right=st.integers(0, 4),
    filling=st.sampled_from([0.0, -1e6, 1e6, float("nan"), float("inf")]),
)
def test_padding_has_no_part(
    pooling: Pooling, normalise: bool, seed: int, left: int, right: int, filling: float
) -> None:
    router = random_router(seed, pooling, normalise=normalise)
    prompt = torch.randn(5, D, generator=torch.Generator().manual_seed(seed + 100))
    padded = torch.full((1, left + 5 + right, D), filling)
    padded[0, left : left + 5] = prompt
    mask = torch.zeros(1, left + 5 + right, dtype=torch.bool)
    mask[0, left : left + 5] = True
    u = router.logits(1, padded, mask)
    assert torch.equal(router.choose(u)[0], router.masks(1, prompt))
    whole = torch.ones(1, 5, dtype=torch.bool)
    torch.testing.assert_close(u, router.logits(1, prompt[None], whole))


def test_each_pooling_is_what_it_says() -> None:
    hidden = torch.randn(1, 4, D)
    mask = torch.tensor([[False, True, True, True]])
    kept, query = hidden[0, 1:], torch.randn(D)
    attention = (kept @ query).softmax(dim=0) @ kept
    expected = {
        "self_attention": attention,
        "mean": kept.mean(dim=0),
        "last": kept[-1],
        "max": kept.amax(dim=0),
    }
    for how, vector in expected.items():
        torch.testing.assert_close(pool(hidden, mask, how, query)[0], vector)  # type: ignore[arg-type]


@settings(max_examples=25)
@given(seed=st.integers(0, 99), top_k=st.integers(1, 7))
def test_the_likeliest_are_chosen(seed: int, top_k: int) -> None:
    u = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))
    p = u.softmax(dim=-1)
    mask = choose(u, top_k, "mask")
    assert set(mask.flatten().tolist()) <= {0.0, 1.0}
    assert mask.sum(dim=-1).tolist() == [top_k] * 3
    kept = torch.where(mask > 0, p, torch.inf).amin(dim=-1)
    dropped = torch.where(mask > 0, -torch.inf, p).amax(dim=-1)
    assert (kept >= dropped).all()
    torch.testing.assert_close(choose(u, top_k, "prob"), p * mask)
    renormalised = choose(u, top_k, "prob_renorm")
    torch.testing.assert_close(renormalised, p * mask / (p * mask).sum(-1, keepdim=True))


@settings(max_examples=50)
@given(
    logits=st.lists(st.integers(-9, 9), min_size=7, max_size=7),
    spread=st.sampled_from([1e-3, 1.0, 1e3, 1e6]),
    top_k=st.integers(1, 7),
)
def test_logits_however_far_apart_are_chosen_by_size(
    logits: list[int], spread: float, top_k: int
) -> None:
    """Their softmax is 0 in fp32 for all but the largest where they lie far apart."""
    u = torch.tensor([logits], dtype=torch.float32) * spread
    best = sorted(range(7), key=lambda i: (-logits[i], i))[:top_k]
    expected = [float(i in best) for i in range(7)]
    assert choose(u, top_k, "mask").tolist() == [expected]
    shares = choose(u, top_k, "prob_renorm")
    exact = np.exp([(logits[i] - max(logits)) * spread for i in best])
    np.testing.assert_allclose(shares[0, best], exact / exact.sum(), rtol=1e-4, atol=1e-7)
    assert all(shares[0, i] == 0 for i in range(7) if i not in best)


def test_of_equal_logits_the_first_are_chosen() -> None:
    assert choose(torch.zeros(1, 7), 3, "mask").tolist() == [[1, 1, 1, 0, 0, 0, 0]]


def reference_logits(
    tensors: dict[str, torch.Tensor], layer: int, rows: np.ndarray, pooling: Pooling, scale: bool
) -> np.ndarray:
    """Compute u [7] of one prompt's rows [n, d] in float64, from the paper's equations alone."""
    t = {name: tensor.double().numpy()[layer] for name, tensor in tensors.items()}
    h = rows.astype(np.float64)
    if scale:
        h = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-6)
    if pooling == "self_attention":
        scores = h @ t["query"]
        attention = np.exp(scores - scores.max())
        pooled = attention / attention.sum() @ h
    else:
        pooled = {"mean": h.mean(axis=0), "last": h[-1], "max": h.max(axis=0)}[pooling]
    above = sum(t["numerator"][j] * pooled**j for j in range(7))
    below = 1 + np.abs(sum(t["denominator"][i - 1] * pooled**i for i in range(1, 6)))
    u: np.ndarray = (above / below) @ t["projection"]
    return u


@pytest.mark.parametrize("weighting", ["mask", "prob", "prob_renorm"])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=12)
@given(seed=st.integers(0, 40), size=st.sampled_from([1.0, 30.0, 2000.0]), top_k=st.integers(1, 7))
def test_the_whole_choice_is_that_of_the_equations(
    pooling: Pooling, normalise: bool, weighting: Weighting, seed: int, size: float, top_k: int
) -> None:
    """Each layer, also where rows are large and the probabilities vanish in fp32."""
    tensors = random_tensors(seed, pooling)
    router = MiloraRouter(
        tensors, top_k=top_k, pooling=pooling, normalise=normalise, weighting=weighting
    )
    rows = torch.randn(5, D, generator=torch.Generator().manual_seed(seed + 7)) * size
    for layer in range(2):
        u = reference_logits(tensors, layer, rows.numpy(), pooling, normalise)
        order = np.argsort(-u, kind="stable")
        last, next_one = u[order[top_k - 1]], u[order[min(top_k, 6)]]
        assume(top_k == 7 or last - next_one > 1e-4 * (1 + np.abs(u).max()))
        best = order[:top_k]
        p = np.exp(u - u.max()) / np.exp(u - u.max()).sum()
        shares = {
            "mask": np.ones(top_k),
            "prob": p[best],
            "prob_renorm": np.exp(u[best] - u.max()) / np.exp(u[best] - u.max()).sum(),
        }
        expected = np.zeros(7)
        expected[best] = shares[weighting]
        found = router.masks(layer, rows).numpy()
        assert set(np.flatnonzero(found)) <= set(best.tolist())
        tolerance = 0 if weighting == "mask" else 1e-5 * (1 + np.abs(u).max())
        np.testing.assert_allclose(found, expected, atol=min(tolerance, 0.2))
        whole = torch.ones(1, 5, dtype=torch.bool)
        np.testing.assert_allclose(
            router.probabilities(layer, rows[None], whole)[0].numpy(),
            p,
            atol=min(1e-5 * (1 + np.abs(u).max()), 0.2),
        )


def test_the_balance_loss_counts_the_likeliest_where_probabilities_vanish() -> None:
    u = torch.eye(7) * 5000
    assert float(balance_loss(u)) == pytest.approx(1.0)


def test_all_seven_chosen_are_all_weight_one() -> None:
    assert random_router(top_k=7).masks(0, torch.randn(3, D)).tolist() == [1.0] * 7


def test_a_masks_gradient_is_that_of_the_probabilities() -> None:
    logits = torch.randn(2, 7, requires_grad=True)
    direction = torch.randn(2, 7)
    (straight,) = torch.autograd.grad((choose(logits, 2, "mask") * direction).sum(), logits)
    (plain,) = torch.autograd.grad((logits.softmax(-1) * direction).sum(), logits)
    torch.testing.assert_close(straight, plain)


def test_the_balance_loss_is_least_where_modules_are_used_alike() -> None:
    even = torch.eye(7) * 50
    assert float(balance_loss(even)) == pytest.approx(1.0)
    one = torch.zeros(7, 7)
    one[:, 2] = 50
    assert float(balance_loss(one)) == pytest.approx(7.0)


def test_normalised_rows_tell_more_than_the_first_tokens_large_value() -> None:
    prompts = torch.randn(20, 6, D, generator=torch.Generator().manual_seed(3))
    prompts[:, 0] = 0
    prompts[:, 0, 4] = 2e4
    mask = torch.ones(20, 6, dtype=torch.bool)
    raw = random_router(pooling="mean").probabilities(0, prompts, mask)
    assert (raw.amax(dim=1) == 1).all()
    assert len(set(raw.argmax(dim=1).tolist())) == 1
    for router in (
        random_router(pooling="mean", normalise=True),
        random_router(pooling="mean", normalise=True).to(torch.device("cpu")),
    ):
        found = router.probabilities(0, prompts, mask)
        assert (found.amax(dim=1) < 0.999).all()
        assert len(set(found.argmax(dim=1).tolist())) > 1
        scaled = prompts * torch.rand(20, 6, 1).add(0.5)
        torch.testing.assert_close(
            router.probabilities(0, scaled, mask), found, atol=1e-4, rtol=1e-4
        )


def test_low_precision_is_computed_in_fp32() -> None:
    router = random_router()
    hidden = torch.randn(4, D).half() * 50
    assert torch.equal(router.masks(0, hidden), router.masks(0, hidden.float()))


@pytest.mark.parametrize(("top_k", "missing"), [(0, None), (8, None), (3, "query")])
def test_what_does_not_fit_is_refused(top_k: int, missing: str | None) -> None:
    tensors = {n: torch.zeros(s) for n, s in tensor_shapes(2, D, "self_attention").items()}
    tensors = {name: tensor for name, tensor in tensors.items() if name != missing}
    with pytest.raises(ValueError, match=r"top_k|do not fit"):
        MiloraRouter(tensors, top_k=top_k)
