from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils import load_peft_weights

from cluster.adapters.format.manifest import read_manifest
from cluster.base_model.source import ModelLocation
from cluster.errors import ConfigError
from router_service.artifacts.router_artifact import MANIFEST_FILE, TENSOR_FILE
from router_service.milora.milora_artifact import load_milora
from tests.support.peft_oracle import ALL_MODULES, WeightedPeft
from training.adapter import add_lora, train_adapter
from training.base_model import load_base, quiet_peft
from training.config import AdapterTrainingConfig, MiloraTrainingConfig
from training.encoding import EncodedExample, collate
from training.export import WEIGHTS_FILE
from training.jsonl import Example, write_examples
from training.milora.train_milora import MiloraTrainee, train_milora
from training.run import TrainProgress

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
EXAMPLES = [
    Example(f"say {word}", word[::-1]) for word in ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op")
]


class Interrupted(Exception):
    """Stands for Ctrl-C between two steps."""


@pytest.fixture
def settings(tmp_path: Path, chat_base: ModelLocation) -> dict[str, Any]:
    data = tmp_path / "data.jsonl"
    write_examples(data, EXAMPLES)
    return {
        "data": data,
        "out": tmp_path / "skill",
        "base": str(chat_base.path),
        "cache_dir": tmp_path / "cache",
        "steps": 6,
        "batch_size": 2,
        "threads": 1,
        "rank": 2,
        "dev_examples": 2,
        "eval_every": 2,
        "checkpoint_every": 2,
        "coefficient_every": 2,
    }


def test_a_run_learns_and_writes_adapter_and_routers(
    settings: dict[str, Any], chat_base: ModelLocation
) -> None:
    options = {"steps": 40, "learning_rate": 0.02, "patience": 99, "top_k": 4}
    seen: list[TrainProgress] = []
    report = train_milora(MiloraTrainingConfig(**{**settings, **options}), seen.append)
    assert report.dev_loss is not None
    assert report.dev_loss < (seen[1].dev_loss or 0)
    assert report.bytes == (report.out / WEIGHTS_FILE).stat().st_size
    loaded = load_milora(report.out, aliases={"skill"}, base_digest=chat_base.digest)
    assert loaded.manifest.candidates == ("skill",)
    assert loaded.manifest.adapter_digests == {"skill": read_manifest(report.out)[0].digest}
    masks = loaded.router().masks(1, torch.randn(5, 32))
    assert sorted(masks.tolist()) == [0, 0, 0, 1, 1, 1, 1]


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    def stop(p: TrainProgress) -> None:
        if p.step == 5:
            raise Interrupted

    fast = {**settings, "coefficient_learning_rate": 0.01, "alias": "skill"}
    whole = train_milora(MiloraTrainingConfig(**{**fast, "out": tmp_path / "whole"}))
    with pytest.raises(Interrupted):
        train_milora(MiloraTrainingConfig(**fast), stop)
    resumed = train_milora(MiloraTrainingConfig(**fast, resume=True))
    for name in (WEIGHTS_FILE, MANIFEST_FILE, TENSOR_FILE):
        assert (whole.out / name).read_bytes() == (resumed.out / name).read_bytes()


def test_router_and_coefficients_are_trained(settings: dict[str, Any]) -> None:
    def tensors(**changes: Any) -> dict[str, torch.Tensor]:
        config = MiloraTrainingConfig(**{**settings, "patience": 99, **changes, "overwrite": True})
        loaded = load_milora(train_milora(config).out, aliases={"skill"}, base_digest=None)
        return {name: torch.from_numpy(t) for name, t in loaded.tensors.items()}

    still = tensors(learning_rate=1e-12, coefficient_learning_rate=1e-12)
    moved = tensors(learning_rate=1e-2, coefficient_learning_rate=1e-2)
    for name in ("projection", "query", "numerator", "denominator"):
        assert not torch.allclose(still[name], moved[name], atol=1e-5), name


def test_all_modules_active_train_plain_lora(settings: dict[str, Any], tmp_path: Path) -> None:
    common = {k: v for k, v in settings.items() if k not in ("out", "coefficient_every")}
    milora = train_milora(
        MiloraTrainingConfig(
            **{**common, "steps": 1}, out=tmp_path / "m", top_k=7, balance=0.0, weight_decay=0.0
        )
    )
    plain = train_adapter(
        AdapterTrainingConfig(
            **{**common, "steps": 1},
            out=tmp_path / "p",
            alpha=2.0,
            target_modules=ALL_MODULES,
            warmup_steps=0,
        )
    )
    assert milora.train_loss == pytest.approx(plain.train_loss, rel=1e-5)
    assert milora.dev_loss == pytest.approx(plain.dev_loss, rel=1e-4)


@pytest.mark.parametrize("pooling", ["self_attention", "mean", "last", "max"])
def test_the_loss_is_that_of_the_masks_of_each_prompt(
    settings: dict[str, Any], chat_base: ModelLocation, pooling: str
) -> None:
    options = {"learning_rate": 0.05, "pooling": pooling, "top_k": 2}
    out = train_milora(MiloraTrainingConfig(**{**settings, **options})).out
    router = load_milora(out, aliases={"skill"}, base_digest=None).router()
    base, _ = load_base(chat_base.path)
    with quiet_peft():
        model = peft.PeftModel.from_pretrained(base, out, adapter_name="skill").eval()
    prompt, answer = tuple(range(5, 25)), (30, 31, 32)

    def weigh(layer: int, hidden: torch.Tensor) -> torch.Tensor:
        mask = router.masks(layer, hidden[0, : len(prompt)])
        return mask.expand(1, hidden.shape[1], 1, 7)

    oracle = WeightedPeft(model, ["skill"], weigh)
    tokens = [*prompt, *answer]
    logp = oracle.logits(tokens).log_softmax(-1)
    expected = -sum(logp[len(prompt) - 1 + i, t] for i, t in enumerate(answer)) / len(answer)
    assert dev_loss_of(settings, out, chat_base, options, prompt, answer) == pytest.approx(
        float(expected), rel=2e-3
    )


def dev_loss_of(
    settings: dict[str, Any],
    out: Path,
    base: ModelLocation,
    options: dict[str, Any],
    prompt: tuple[int, ...],
    answer: tuple[int, ...],
) -> float:
    """Compute the trainee's own loss with the artifact's weights, padded by a longer neighbour."""
    model, tokenizer = load_base(base.path)
    lora = peft.LoraConfig(
        r=2, lora_alpha=2, target_modules=list(ALL_MODULES), task_type="CAUSAL_LM"
    )
    config = MiloraTrainingConfig(**{**settings, **options})
    trainee = MiloraTrainee(add_lora(model, lora, 0), config, tokenizer.pad_token_id)
    adapter = load_peft_weights(str(out), device="cpu")
    routers = load_milora(out, aliases={"skill"}, base_digest=None).tensors
    trainee.load_weights(
        {
            **{k: v.float() for k, v in adapter.items()},
            **{f"router.{k}": torch.from_numpy(v) for k, v in routers.items()},
        }
    )
    example = EncodedExample(prompt, answer)
    longer = EncodedExample(tuple(range(40, 80)), (9,))
    with torch.no_grad():
        alone = trainee.dev_loss([example])
        both = trainee.dev_loss([example, longer])
        other = trainee.dev_loss([longer])
    assert both == pytest.approx((3 * alone + other) / 4, rel=1e-4)
    return alone


def test_the_prompt_mask_leaves_out_padding_and_answer() -> None:
    examples = [EncodedExample((1, 2, 3), (4, 5)), EncodedExample((1, 2, 3, 6, 7, 8), (9,))]
    batch = collate(examples, pad_id=0, share_prefix=False)
    assert batch.input_ids.tolist() == [[0, 0, 1, 2, 3, 4, 5], [1, 2, 3, 6, 7, 8, 9]]
    assert batch.prompt_mask.int().tolist() == [[0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0]]


def test_a_result_is_not_replaced_unasked(settings: dict[str, Any]) -> None:
    train_milora(MiloraTrainingConfig(**settings))
    with pytest.raises(ConfigError, match="holds an adapter already"):
        train_milora(MiloraTrainingConfig(**settings))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"alias": "a b"}, "alias: "),
        ({"alias": ""}, "alias: "),
        ({"out": "my forms"}, "out, whose"),
    ],
)
def test_a_name_that_cannot_be_served_is_refused_at_once(
    settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    if "out" in changes:
        changes = {"out": tmp_path / changes["out"]}
    seen: list[TrainProgress] = []
    with pytest.raises(ConfigError, match=f"{field}.*expected the name of an adapter"):
        train_milora(MiloraTrainingConfig(**{**settings, **changes}), seen.append)
    assert not seen


def test_an_adapter_takes_a_routers_place(settings: dict[str, Any]) -> None:
    """A router of the weights before would be served with the new ones."""
    train_milora(MiloraTrainingConfig(**{**settings, "steps": 1}))
    plain = {k: v for k, v in settings.items() if k != "coefficient_every"}
    out = train_adapter(AdapterTrainingConfig(**{**plain, "steps": 1}, overwrite=True)).out
    assert not (out / MANIFEST_FILE).exists()
    assert not (out / TENSOR_FILE).exists()
    assert read_manifest(out)[0].rank == 2
