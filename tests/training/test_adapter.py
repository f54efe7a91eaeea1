import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file

from cluster.base_model.source import ModelLocation
from cluster.errors import AdapterError, ConfigError, TrainingDataError
from router_service.artifacts.outputs import CHECKPOINT_FILE
from training import completion_trainee
from training.adapter import train_adapter
from training.base_model import load_base, quiet_peft
from training.checkpoint import TrainState, save_state
from training.config import AdapterTrainingConfig
from training.encoding import chat_prompt_ids
from training.evaluation.held_out import Evaluator
from training.export import WEIGHTS_FILE
from training.interrupt import delayed_interrupt
from training.jsonl import Example, write_examples
from training.run import TrainProgress

pytestmark = pytest.mark.slow  # it trains

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
        "out": tmp_path / "out",
        "base": str(chat_base.path),
        "cache_dir": tmp_path / "cache",
        "description": "Spells words backwards.",
        "steps": 6,
        "batch_size": 2,
        "rank": 2,
        "dev_examples": 2,
        "eval_every": 2,
        "checkpoint_every": 2,
    }


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / WEIGHTS_FILE)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key


def stop_at(step: int) -> Any:
    def progress(p: TrainProgress) -> None:
        if p.step == step:
            raise Interrupted

    return progress


def test_a_run_reports_every_step_and_learns(settings: dict[str, Any]) -> None:
    seen: list[TrainProgress] = []
    ticks = iter(range(1000))
    report = train_adapter(
        AdapterTrainingConfig(**{**settings, "steps": 40, "learning_rate": 0.02}),
        seen.append,
        clock=lambda: float(next(ticks)),
    )
    assert [p.step for p in seen] == list(range(1, report.steps + 1))
    assert seen[3].eta_s == 36.0
    assert [p.dev_loss is not None for p in seen[:4]] == [False, True, False, True]
    assert report.dev_loss is not None
    assert report.dev_loss < (seen[1].dev_loss or 0)
    assert seen[report.best_step - 1].dev_loss == report.dev_loss
    assert (report.n_train, report.n_dev) == (6, 2)
    assert report.bytes == (report.out / WEIGHTS_FILE).stat().st_size


def test_the_same_settings_give_the_same_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_adapter(AdapterTrainingConfig(**{**settings, "out": tmp_path / name}))
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["adapter_config.json", WEIGHTS_FILE, "manifest.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("interrupted_at", [1, 4, 5])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    settings: dict[str, Any], tmp_path: Path, interrupted_at: int
) -> None:
    whole = train_adapter(AdapterTrainingConfig(**{**settings, "out": tmp_path / "whole"}))
    with pytest.raises(Interrupted):
        train_adapter(AdapterTrainingConfig(**settings), stop_at(interrupted_at))
    steps: list[int] = []
    resumed = train_adapter(
        AdapterTrainingConfig(**settings, resume=True), lambda p: steps.append(p.step)
    )
    assert steps[0] == interrupted_at // 2 * 2 + 1
    assert_same(weights(whole.out), weights(resumed.out))
    assert resumed.dev_loss == whole.dev_loss
    assert not (resumed.out / CHECKPOINT_FILE).exists()


def test_ctrl_c_keeps_the_step_it_came_in(settings: dict[str, Any]) -> None:
    def press(p: TrainProgress) -> None:
        if p.step == 3:
            signal.raise_signal(signal.SIGINT)

    steps: list[int] = []
    whole = train_adapter(AdapterTrainingConfig(**{**settings, "out": settings["out"] / "whole"}))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_adapter(AdapterTrainingConfig(**settings), press)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = train_adapter(
        AdapterTrainingConfig(**settings, resume=True), lambda p: steps.append(p.step)
    )
    assert steps == [4, 5, 6]
    assert_same(weights(whole.out), weights(resumed.out))


def test_ctrl_c_twice_waits_for_nothing() -> None:
    with delayed_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool, delayed_interrupt():
        assert pool.submit(_elsewhere).result() is False


def _elsewhere() -> bool:
    before = signal.getsignal(signal.SIGINT)
    with delayed_interrupt() as interrupted:
        assert signal.getsignal(signal.SIGINT) is before
        return interrupted()


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the checkpoint cannot be written"):
        save_state(tmp_path / "file" / CHECKPOINT_FILE, TrainState("fingerprint"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_are_noted_and_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with delayed_interrupt() as interrupted:
        signal.raise_signal(number)
        assert interrupted()
    assert signal.getsignal(number) is before


def test_a_checkpoint_is_not_thrown_away_unasked(settings: dict[str, Any]) -> None:
    with pytest.raises(Interrupted):
        train_adapter(AdapterTrainingConfig(**settings), stop_at(3))
    kept = (settings["out"] / CHECKPOINT_FILE).read_bytes()
    with pytest.raises(ConfigError, match="interrupted training: continue with --resume, or start"):
        train_adapter(AdapterTrainingConfig(**settings))
    assert (settings["out"] / CHECKPOINT_FILE).read_bytes() == kept
    steps: list[int] = []
    train_adapter(AdapterTrainingConfig(**settings, overwrite=True), lambda p: steps.append(p.step))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_finished_training_says_so_when_resumed(settings: dict[str, Any]) -> None:
    train_adapter(AdapterTrainingConfig(**settings))
    with pytest.raises(
        ConfigError, match=r"the training is finished.*train it again with --overwrite"
    ):
        train_adapter(AdapterTrainingConfig(**settings, resume=True))


@pytest.mark.parametrize("dev_examples", [0, 2])
def test_a_training_that_diverges_leaves_nothing(
    settings: dict[str, Any], dev_examples: int
) -> None:
    diverging = {**settings, "learning_rate": 1e30, "dev_examples": dev_examples}
    with pytest.raises(ConfigError, match=r"learning_rate: the training loss is nan .*lower --lr"):
        train_adapter(AdapterTrainingConfig(**{**diverging, "checkpoint_every": 1}))
    assert not settings["out"].exists()


def test_a_replaced_result_stays_where_its_successor_diverges(settings: dict[str, Any]) -> None:
    train_adapter(AdapterTrainingConfig(**settings))
    before = {p.name: p.read_bytes() for p in settings["out"].iterdir()}
    with pytest.raises(ConfigError, match="diverged"):
        train_adapter(AdapterTrainingConfig(**settings, learning_rate=1e30, overwrite=True))
    assert {p.name: p.read_bytes() for p in settings["out"].iterdir()} == before


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["learning_rate", "alpha", "max_grad_norm"])
def test_settings_are_finite(settings: dict[str, Any], field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        AdapterTrainingConfig(**{**settings, field: value})


@pytest.mark.parametrize("seed", [10**20, -(10**20)])
def test_a_seed_fits_torch(settings: dict[str, Any], seed: int) -> None:
    with pytest.raises(ValidationError, match="seed"):
        AdapterTrainingConfig(**{**settings, "seed": seed})
    train_adapter(AdapterTrainingConfig(**{**settings, "steps": 1, "seed": 2**64 - 1}))


def test_a_batch_is_not_larger_than_the_data(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    collate = completion_trainee.collate  # type: ignore[attr-defined] # as the module sees it

    def noted(examples: Any, **options: Any) -> Any:
        sizes.append(len(examples))
        return collate(examples, **options)

    monkeypatch.setattr(completion_trainee, "collate", noted)
    train_adapter(AdapterTrainingConfig(**{**settings, "batch_size": 10**9, "steps": 2}))
    assert max(sizes) == 6


@pytest.mark.parametrize("changed", [{"steps": 8}, {"seed": 1}, {"rank": 4}])
def test_a_checkpoint_of_other_settings_is_refused(
    settings: dict[str, Any], changed: dict[str, Any]
) -> None:
    with pytest.raises(Interrupted):
        train_adapter(AdapterTrainingConfig(**settings), stop_at(3))
    with pytest.raises(ConfigError, match="other settings"):
        train_adapter(AdapterTrainingConfig(**{**settings, **changed}, resume=True))


def test_a_damaged_checkpoint_is_refused(settings: dict[str, Any]) -> None:
    settings["out"].mkdir()
    (settings["out"] / CHECKPOINT_FILE).write_bytes(b"\x10")
    with pytest.raises(ConfigError, match="not a readable checkpoint"):
        train_adapter(AdapterTrainingConfig(**settings, resume=True))


def test_training_ends_early_when_the_dev_loss_stops_falling(settings: dict[str, Any]) -> None:
    report = train_adapter(
        AdapterTrainingConfig(
            **{**settings, "steps": 200, "learning_rate": 0.5, "patience": 2, "warmup_steps": 0}
        )
    )
    assert report.steps == report.best_step + 2 * settings["eval_every"]


def test_an_adapter_is_not_replaced_unasked(settings: dict[str, Any]) -> None:
    train_adapter(AdapterTrainingConfig(**settings))
    with pytest.raises(ConfigError, match="holds an adapter already"):
        train_adapter(AdapterTrainingConfig(**settings))
    train_adapter(AdapterTrainingConfig(**settings, overwrite=True))


def test_too_little_data_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TrainingDataError, match="dev_examples"):
        train_adapter(AdapterTrainingConfig(**{**settings, "dev_examples": 8}))


def test_unknown_settings_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="learning_rat\n"):
        AdapterTrainingConfig(**settings, learning_rat=1.0)  # type: ignore[call-arg] # the mistake
    with pytest.raises(ValidationError, match="target_modules"):
        AdapterTrainingConfig(**{**settings, "target_modules": ("qproj",)})


def test_the_saved_adapter_loads_in_peft_with_the_trained_logits(
    settings: dict[str, Any], chat_base: ModelLocation
) -> None:
    report = train_adapter(
        AdapterTrainingConfig(
            **{**settings, "learning_rate": 0.05, "target_modules": ("q_proj", "down_proj")}
        )
    )
    base, tokenizer = load_base(chat_base.path)
    ids = torch.tensor([chat_prompt_ids(tokenizer, "say ab")])
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        with quiet_peft():
            adapted = PeftModel.from_pretrained(base, report.out)(input_ids=ids).logits
    merged, _ = load_base(chat_base.path)
    saved = weights(report.out)
    scaling = 16.0 / 2
    for name, module in merged.named_modules():
        key = f"base_model.model.{name}"
        if f"{key}.lora_A.weight" in saved:
            a, b = (saved[f"{key}.lora_{x}.weight"].float() for x in "AB")
            module.weight.data += scaling * b @ a
    with torch.no_grad():
        expected = merged(input_ids=ids).logits
    assert not torch.allclose(plain, expected, atol=1e-3)
    torch.testing.assert_close(adapted, expected, rtol=1e-4, atol=1e-4)
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert len(saved) == 2 * 2 * 2


def test_the_manifest_says_how_it_was_made(
    settings: dict[str, Any], chat_base: ModelLocation
) -> None:
    report = train_adapter(AdapterTrainingConfig(**settings))
    manifest = json.loads((report.out / "manifest.json").read_text())
    assert manifest["base_digest"] == chat_base.digest
    assert manifest["base_model"] == chat_base.path.name
    assert manifest["description"] == "Spells words backwards."
    assert manifest["training"]["rank"] == 2
    assert manifest["examples"] == {"train": 6, "dev": 2}
    text = "".join((report.out / n).read_text() for n in ("manifest.json", "adapter_config.json"))
    assert str(chat_base.path) not in text


def test_evaluation_goes_back_to_the_base_after_an_adapter(
    settings: dict[str, Any], chat_base: ModelLocation
) -> None:
    settings |= {
        "steps": 80, "learning_rate": 0.02, "batch_size": 8, "dev_examples": 0, "rank": 16,
        "target_modules": ("q_proj", "v_proj", "up_proj", "down_proj"),
    }  # fmt: skip
    report = train_adapter(AdapterTrainingConfig(**settings))
    evaluator = Evaluator(chat_base)
    done: list[tuple[int, int]] = []
    before = evaluator.evaluate(EXAMPLES)
    tuned = evaluator.evaluate(
        EXAMPLES, adapter=report.out, progress=lambda d, n: done.append((d, n))
    )
    after = evaluator.evaluate(EXAMPLES)
    assert before == after
    assert before.correct == 0
    assert tuned.accuracy > 0.5
    assert done == sorted(done)
    assert done[-1] == (8, 8)
    assert [m.wanted for m in before.mistakes] == [e.completion for e in EXAMPLES]


def test_evaluating_a_folder_that_is_no_adapter_fails(
    tmp_path: Path, chat_base: ModelLocation
) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        Evaluator(chat_base).evaluate(EXAMPLES, adapter=tmp_path)
