"""Router training on three tiny tasks."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import ConfigError, TrainingDataError
from router_service.artifacts.outputs import CHECKPOINT_FILE
from router_service.artifacts.router_artifact import MANIFEST_FILE, TENSOR_FILE, read_manifest
from router_service.dlp.dlp_router import load_dlp
from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.dlp.mini_mlp import MiniMlp, NetworkConfig
from router_service.routers.features import FeatureConfig, feature_ids
from training.dlp.router_batches import BatchSource, collate
from training.dlp.router_config import RouterProgress, RouterTrainingConfig
from training.dlp.router_data import LabelledText, read_labelled, split_dev
from training.dlp.router_network import initial_parameters, logits
from training.dlp.train_router import train_router

TINY = DlpHyperparameters(
    features=FeatureConfig(buckets=256),
    network=NetworkConfig(width=8, hidden=(16, 16, 16)),
)
TASKS = {"sql": "select the {} rows", "cron": "schedule the {} job", "chat": "tell me about {}"}
TRAIN_WORDS = ("red", "big", "old", "new", "fast", "slow", "odd", "hot", "cold", "wet")
HELD_OUT_WORDS = ("green", "small", "dry")


def _ignore(progress: RouterProgress) -> None:
    """Show no progress."""


def _write(folder: Path, words: tuple[str, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    for label, template in TASKS.items():
        lines = [json.dumps({"prompt": template.format(w), "completion": "x"}) for w in words]
        (folder / f"{label}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RouterTrainingConfig]:
    data = _write(tmp_path / "data", TRAIN_WORDS)

    def make(out: str = "out", **changes: Any) -> RouterTrainingConfig:
        fields: dict[str, Any] = {
            "data": data,
            "out": tmp_path / out,
            "base_label": "chat",
            "hyperparameters": TINY,
            "epochs": 10,
            "patience": 10,
            "batch_size": 8,
            "learning_rate": 0.02,
            "warmup_steps": 2,
            "threads": 1,
        }
        return RouterTrainingConfig(**fields | changes)

    return make


def _files(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in (MANIFEST_FILE, TENSOR_FILE))


def test_it_learns_and_says_how_well(make_config: Any, tmp_path: Path) -> None:
    held_out = _write(tmp_path / "held_out", HELD_OUT_WORDS)
    seen: list[RouterProgress] = []
    config = make_config(held_out=held_out)
    report = train_router(config, seen.append)
    assert report.candidates == ("", "cron", "sql")
    assert report.held_out_accuracy == 1.0
    assert dict(report.held_out_by_label) == {"": 1.0, "cron": 1.0, "sql": 1.0}
    assert report.train_examples + report.dev_examples == 30
    assert [p.step for p in seen] == list(range(1, report.steps + 1))
    assert sum(p.dev_loss is not None for p in seen) == 10
    assert {file.name for file in config.out.iterdir()} == {MANIFEST_FILE, TENSOR_FILE}

    router = load_dlp("auto", config.out, aliases=frozenset({"sql", "cron"}))
    assert router.route("select the purple rows", frozenset({"", "sql", "cron"})).weights == (
        ("sql", 1.0),
    )
    manifest = read_manifest(config.out)
    assert manifest.version == report.version
    assert manifest.metrics["held_out_accuracy"] == 1.0


def test_the_same_settings_give_the_same_bytes(make_config: Any) -> None:
    first, second = make_config("first"), make_config("second")
    other = make_config("other", seed=1)
    for config in (first, second, other):
        train_router(config, _ignore)
    assert _files(first.out) == _files(second.out)
    assert _files(first.out) != _files(other.out)


class Interrupted(Exception):
    """Raised from the progress callback, as a person's ^C would be."""


def test_a_resumed_run_ends_as_an_uninterrupted_one(make_config: Any) -> None:
    whole, broken = make_config("whole"), make_config("broken", resume=True)
    train_router(whole, _ignore)

    def interrupt(progress: RouterProgress) -> None:
        if progress.epoch == 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_router(broken, interrupt)
    steps: list[int] = []
    train_router(broken, lambda progress: steps.append(progress.step))
    assert steps[0] > 1
    assert _files(broken.out) == _files(whole.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_an_interrupted_step_is_kept(make_config: Any, stop_at: int, number: int) -> None:
    """Within an epoch of four steps, and at the end of one."""
    whole, broken = make_config("whole", epochs=3), make_config("broken", epochs=3)
    train_router(whole, _ignore)

    def press(progress: RouterProgress) -> None:
        if progress.step == stop_at:
            signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        train_router(broken, press)
    steps: list[int] = []
    resumed = broken.model_copy(update={"resume": True})
    train_router(resumed, lambda progress: steps.append(progress.step))
    assert steps[0] == stop_at + 1
    assert _files(broken.out) == _files(whole.out)
    with pytest.raises(ConfigError, match="the training is finished"):
        train_router(resumed, _ignore)


def test_a_checkpoint_is_not_thrown_away_unasked(make_config: Any) -> None:
    def press(progress: RouterProgress) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_router(make_config(), press)
    with pytest.raises(ConfigError, match="interrupted training: continue with --resume, or start"):
        train_router(make_config(), _ignore)
    train_router(make_config(epochs=1, overwrite=True), _ignore)


def test_a_training_that_diverges_leaves_nothing(make_config: Any) -> None:
    config = make_config(learning_rate=1e30, epochs=2)
    with pytest.raises(ConfigError, match=r"learning_rate: .* loss is (nan|inf) .*lower --lr"):
        train_router(config, _ignore)
    assert not config.out.exists()


def test_weights_must_be_finite_as_they_are_saved(make_config: Any) -> None:
    """One large step: finite in fp32, not in fp16."""
    config = make_config(learning_rate=1e6, epochs=1, batch_size=10**9)
    with pytest.raises(ConfigError, match=r"learning_rate: .* is not finite after step 1"):
        train_router(config, _ignore)
    assert not config.out.exists()


def test_a_batch_is_not_larger_than_the_data(make_config: Any) -> None:
    config = make_config(batch_size=10**9)
    examples = read_labelled(config.data, "chat")
    assert len(BatchSource(examples, ("", "cron", "sql"), config).batch(0).ids) < 60
    assert train_router(config.model_copy(update={"epochs": 1}), _ignore).steps == 1


def test_a_base_label_that_is_given_must_be_there(make_config: Any) -> None:
    with pytest.raises(TrainingDataError, match=r"base_label: expected a label.*found 'nothere'"):
        train_router(make_config(base_label="nothere"), _ignore)
    fields = make_config().model_dump(exclude={"base_label"}) | {"epochs": 1}
    train_router(RouterTrainingConfig(**fields), _ignore)


def test_a_checkpoint_of_other_settings_is_refused(make_config: Any) -> None:
    def interrupt(progress: RouterProgress) -> None:
        if progress.epoch == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_router(make_config(), interrupt)
    with pytest.raises(ConfigError, match=CHECKPOINT_FILE):
        train_router(make_config(resume=True, seed=1), _ignore)


def test_an_existing_router_is_not_overwritten_unasked(make_config: Any) -> None:
    train_router(make_config(epochs=1), _ignore)
    with pytest.raises(ConfigError, match="holds a router already"):
        train_router(make_config(epochs=1), _ignore)
    train_router(make_config(epochs=1, overwrite=True), _ignore)


def test_it_stops_when_the_dev_loss_has_stopped_falling(make_config: Any) -> None:
    config = make_config(epochs=60, patience=1, learning_rate=0.5)
    report = train_router(config, _ignore)
    assert report.best_step < report.steps < 60 * 4


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("{", ":2: not JSON"),
        ("[]", ":2: must be an object, found list"),
        ('{"text": "a"}', ":2:label: missing"),
        ('{"label": "a"}', ":2:text: missing"),
        ('{"text": 1, "label": "a"}', ":2:text: must be a string, found int"),
        ('{"text": " ", "label": "a"}', ":2:text: is empty"),
        ('{"text": "a", "label": "b", "weight": 1}', ":2:weight: unknown field"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, where: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n' + line + "\n")
    with pytest.raises(TrainingDataError) as refusal:
        read_labelled(path, None)
    assert f"data.jsonl{where}" in refusal.value.message


def test_both_forms_read_the_same(tmp_path: Path) -> None:
    folder = _write(tmp_path / "folder", ("red",))
    by_folder = read_labelled(folder, "chat")
    path = tmp_path / "one.jsonl"
    records = [{"text": e.text, "label": e.label or "chat"} for e in by_folder]
    path.write_text("\n\n".join(json.dumps(record) for record in records))
    assert read_labelled(path, "chat") == by_folder
    assert {e.label for e in by_folder} == {"", "cron", "sql"}
    assert {e.label for e in read_labelled(folder, None)} == {"chat", "cron", "sql"}


def test_a_line_separator_within_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a\u2028b", "label": "c"}\n', encoding="utf-8")
    assert read_labelled(path, None) == [LabelledText("a\u2028b", "c")]


def test_data_that_cannot_train_a_router(make_config: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TrainingDataError, match=r"no \.jsonl files"):
        train_router(make_config(data=empty), _ignore)
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(TrainingDataError, match="one label only"):
        train_router(make_config(data=one), _ignore)
    with pytest.raises(TrainingDataError, match="labels that training does not have: b"):
        train_router(make_config(held_out=one), _ignore)
    one.write_text('{"text": "a", "label": "b"}\n{"text": "a", "label": "c"}\n')
    with pytest.raises(TrainingDataError, match="'b' has 1 example"):
        train_router(make_config(data=one, base_label=None), _ignore)


def test_the_split_is_by_label_and_loses_nothing() -> None:
    examples = [LabelledText(f"{label}{n}", label) for label in ("a", "b") for n in range(10)]
    train, dev = split_dev(examples, 0.2, seed=3)
    assert sorted(e.label for e in dev) == ["a", "a", "b", "b"]
    assert sorted(train + dev, key=lambda e: e.text) == examples
    assert split_dev(examples, 0.2, seed=3) == (train, dev)


def test_a_batch_depends_on_seed_and_step_only(make_config: Any) -> None:
    examples = read_labelled(make_config().data, "chat")
    sources = [BatchSource(examples, ("", "cron", "sql"), make_config()) for _ in range(2)]
    sources[0].batch(0)
    first, second = (source.batch(5) for source in sources)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.targets, second.targets)
    assert torch.allclose(first.targets.sum(dim=1), torch.ones(len(first.targets)))
    assert first.mask.any(dim=1).all()


def test_numpy_and_torch_compute_the_same_function() -> None:
    parameters = initial_parameters(TINY, 3, torch.Generator().manual_seed(0))
    rows = [feature_ids(text, TINY.features) for text in ("one", "select the red rows, please")]
    batch = collate(rows, [{0: 1.0}, {1: 1.0}], 3)
    expected = logits(parameters, batch.ids, batch.mask).detach().numpy()
    network = MiniMlp.from_tensors({k: v.detach().numpy() for k, v in parameters.items()})
    for row, ids in enumerate(rows):
        np.testing.assert_allclose(network.logits(ids), expected[row], rtol=1e-5, atol=1e-6)


def test_texts_that_go_on_with_a_turn_before_are_learned_apart(
    make_config: Any, tmp_path: Path
) -> None:
    config = make_config(epochs=20)
    more = ("and the {} ones", "only the {} ones", "now the {} ones")
    lines = [json.dumps({"prompt": text.format(w)}) for text in more for w in TRAIN_WORDS]
    (config.data / "follow-up.jsonl").write_text("\n".join(lines) + "\n")
    report = train_router(config, _ignore)
    assert report.candidates == ("", "cron", "sql")
    router = load_dlp("r", config.out, aliases=frozenset({"cron", "sql"}))
    asked = TASKS["sql"].format("green")
    allowed = frozenset({"", "cron", "sql"})
    assert router.route("and the small ones", allowed).weights == ()
    assert router.route("and the small ones", allowed, [asked]).weights == (("sql", 1.0),)
    assert router.route(TASKS["chat"].format("small"), allowed, [asked]).weights == ()
    same = train_router(make_config("again", epochs=20, data=config.data), _ignore)
    assert _files(same.path) == _files(config.out)


def test_a_follow_up_label_may_have_another_name_or_none(make_config: Any) -> None:
    config = make_config(epochs=1)
    lines = [json.dumps({"prompt": f"and {word}"}) for word in TRAIN_WORDS]
    (config.data / "more.jsonl").write_text("\n".join(lines) + "\n")
    report = train_router(config, _ignore)
    assert report.candidates == ("", "cron", "more", "sql")
    renamed = config.model_copy(update={"follow_up_label": "more", "overwrite": True})
    assert train_router(renamed, _ignore).candidates == ("", "cron", "sql")
    config = make_config("none", epochs=1, data=config.data, follow_up_label=None)
    assert train_router(config, _ignore).candidates == ("", "cron", "more", "sql")
