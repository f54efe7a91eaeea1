"""Import of published DLP checkpoints, and what is served from them, on tiny random encoders."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

from cluster.config import RouterConfig
from cluster.errors import ConfigError
from router_service.artifacts.router_artifact import MANIFEST_FILE
from router_service.dlp.dlp_router import DlpRouter
from router_service.dlp.encoder import ENCODER_FOLDER, EncoderClassifier
from router_service.dlp.encoder_import import import_checkpoint
from router_service.router_kinds import default_registry
from router_service.routers.kind import RouterContext
from router_service.routers.selection import softmax

WORDS = [f"w{i}" for i in range(30)]
WIDTH = 16
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {"specials": ("[CLS]", "[SEP]", "<pad>", "<unk>"), "embedding_size": 8},
    "roberta": {"specials": ("<s>", "</s>", "<pad>", "<unk>"), "type_vocab_size": 1},
}


@dataclass
class Published:
    """A checkpoint as the authors save it, and the model that it came from."""

    encoder: Path
    checkpoint: Path
    listing: Path
    model: Any
    norm: torch.nn.LayerNorm
    decode: torch.nn.Linear
    state: dict[str, torch.Tensor]

    def logits(self, ids: list[int]) -> list[float]:
        """Compute the authors' formula on token ids."""
        with torch.inference_mode():
            states = self.model(torch.tensor([ids])).last_hidden_state[:, 0, :]
            return self.decode(self.norm(states))[0].tolist()


@pytest.fixture(params=FAMILIES)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    return _publish(tmp_path, request.param)


def _publish(root: Path, family: str, classes: int = 3) -> Published:
    options = dict(FAMILIES[family])
    cls, sep, pad, unk = options.pop("specials")
    vocabulary = {word: index for index, word in enumerate((cls, pad, sep, unk, *WORDS))}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=unk))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, cls_token=cls, sep_token=sep, pad_token=pad, unk_token=unk
    )
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=40,
        pad_token_id=vocabulary[pad],
        **options,
    )
    folder = root / "published"
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.AutoModel.from_config(config).eval()
        norm, decode = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, classes)
        for parameter in (*model.parameters(), *norm.parameters(), *decode.parameters()):
            parameter.data.normal_(std=0.5)
    state = {
        f"{prefix}.{name}": tensor
        for prefix, module in (("model", model), ("norm", norm), ("Decode", decode))
        for name, tensor in module.state_dict().items()
    }
    state["model.embeddings.position_ids"] = torch.arange(40)[None]
    checkpoint = root / "mode_albert,lr_1e-05,step_2500.pth"
    torch.save(state, checkpoint)
    listing = root / "adapters.txt"
    names = [f"./finish/Lora/{name}" for name in ("sql", "cron", "json", "dates")]
    listing.write_text("\n".join(names[:classes]) + "\n")
    return Published(folder, checkpoint, listing, model, norm, decode, state)


def _import(published: Published, out: Path, **changes: Any) -> Any:
    return import_checkpoint(
        published.checkpoint, published.encoder, published.listing, out,
        **({"max_tokens": 12} | changes),
    )  # fmt: skip


def _serve(path: Path, aliases: tuple[str, ...] = ("sql", "cron", "json"), **options: Any) -> Any:
    return default_registry().build(
        RouterConfig(name="auto", path=path, options=options),
        RouterContext(aliases=frozenset(aliases), max_mixture=8),
    )


def test_it_answers_as_the_published_model_does(published: Published, tmp_path: Path) -> None:
    manifest = _import(published, tmp_path / "router")
    assert manifest.candidates == ("sql", "cron", "json")
    router = _serve(tmp_path / "router", top_p=1.0)
    assert isinstance(router, DlpRouter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published.encoder)
    answers = set()
    for text in ("w1 w2 w3", "w9", "", "w4 nonsense w5", "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10"):
        routed = router.route(text, frozenset(manifest.candidates))
        expected = softmax(published.logits(tokenizer(text)["input_ids"]))
        found = [score.probability for score in routed.scores]
        assert found == pytest.approx(expected, abs=2e-6)
        answers.add(tuple(found))
    assert len(answers) == 5


def test_a_long_text_keeps_its_tail_behind_a_new_cls(published: Published, tmp_path: Path) -> None:
    _import(published, tmp_path / "router")
    router = _serve(tmp_path / "router")
    classifier = router._classifier
    assert isinstance(classifier, EncoderClassifier)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published.encoder)
    whole = tokenizer(" ".join(WORDS))["input_ids"]
    ids = classifier.token_ids(" ".join(WORDS))
    assert ids == [tokenizer.cls_token_id, *whole[-11:]]
    assert len(ids) == 12
    assert ids[-1] == tokenizer.sep_token_id
    short = " ".join(WORDS[:10])
    assert classifier.token_ids(short) == tokenizer(short)["input_ids"]


def test_a_safetensors_checkpoint_without_the_unused_keys_is_the_same_router(
    published: Published, tmp_path: Path
) -> None:
    _import(published, tmp_path / "one")
    used = {k: v for k, v in published.state.items() if "pooler" not in k and "_ids" not in k}
    published.checkpoint = tmp_path / "state.safetensors"
    save_file(used, published.checkpoint)
    _import(published, tmp_path / "two")
    one, two = _serve(tmp_path / "one"), _serve(tmp_path / "two")
    allowed = frozenset(one.candidates)
    assert one.route("w1 w2", allowed) == two.route("w1 w2", allowed)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this was run",))


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("norm.bias"), r"step_2500\.pth: lacks: norm\.bias"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "has unknown keys: extra.weight"),
        (lambda s: s | {"model.x": torch.zeros(1)}, r"has unknown keys: model\.x"),
        (lambda s: s | {"Decode.bias": torch.zeros(4)}, r"Decode\.bias has shape \[4\], not \[3\]"),
        (lambda s: s | {"norm.weight": torch.full((WIDTH,), torch.nan)}, r"norm\.weight: values"),
        (
            lambda s: s | {"Decode.weight": torch.zeros(2, WIDTH)},
            r"Decode\.weight has 2 classes, but .*adapters\.txt has 3 lines",
        ),
        (lambda s: [*s], "not a state dict of tensors"),
        (lambda _: {"classifier.weight": torch.zeros(3, 3)}, "lacks: model.*and .* more"),
        (lambda _: {"model": _Evil()}, "not a state dict of tensors"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_name(
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    published = _publish(tmp_path, "albert")
    torch.save(change(published.state), published.checkpoint)
    with pytest.raises(ConfigError, match=message):
        _import(published, tmp_path / "router")
    assert "this was run" not in capsys.readouterr().out
    assert not (tmp_path / "router").exists()


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    published = _publish(tmp_path, "roberta")
    published.checkpoint.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ConfigError, match="not a state dict"):
        _import(published, tmp_path / "router")
    published.checkpoint.write_bytes(b"text")
    with pytest.raises(ConfigError, match="not a state dict"):
        _import(published, tmp_path / "router")
    published.checkpoint.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        _import(published, tmp_path / "router")


@pytest.mark.parametrize(
    ("lines", "aliases", "message"),
    [
        ("sql\n\ncron\n", None, r"adapters\.txt:2: empty"),
        ("a/step_1\nb/step_1\nc/step_1\n", None, r":2: 'step_1' is line 1 too; give aliases"),
        ("a b\nc\nd\n", None, r":1: 'a b' cannot be an alias"),
        ("a\nb\nc\n", ("x", "y"), "has 3 lines, but 2 aliases"),
        ("\n\n", None, "names no adapters"),
    ],
)
def test_a_wrong_list_is_refused(
    tmp_path: Path, lines: str, aliases: tuple[str, ...] | None, message: str
) -> None:
    published = _publish(tmp_path, "albert")
    published.listing.write_text(lines)
    with pytest.raises(ConfigError, match=message):
        _import(published, tmp_path / "router", aliases=aliases)


def test_aliases_replace_the_folders_names(tmp_path: Path) -> None:
    published = _publish(tmp_path, "albert")
    published.listing.write_text("a/step_1\nC:\\b\\step_1\nc/step_1\n")
    manifest = _import(published, tmp_path / "router", aliases=("x", "y", "z"))
    assert manifest.candidates == ("x", "y", "z")


def test_an_encoder_of_another_kind_or_size_is_refused(tmp_path: Path) -> None:
    published = _publish(tmp_path, "roberta")
    with pytest.raises(ConfigError, match="max_tokens is 40, but there are 38 positions"):
        _import(published, tmp_path / "router", max_tokens=40)
    config = published.encoder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 18}))
    with pytest.raises(ConfigError, match=r"has shape"):
        _import(published, tmp_path / "router")
    config.write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="model_type is 'gpt2'; there are: albert, roberta"):
        _import(published, tmp_path / "router")


def test_a_second_import_does_not_overwrite(tmp_path: Path) -> None:
    published = _publish(tmp_path, "albert")
    _import(published, tmp_path / "router")
    with pytest.raises(ConfigError, match="holds a router already"):
        _import(published, tmp_path / "router")
    _import(published, tmp_path / "router", overwrite=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_changed_file_beside_the_tensors_is_refused(tmp_path: Path, name: str) -> None:
    published = _publish(tmp_path, "albert")
    _import(published, tmp_path / "router")
    file = tmp_path / "router" / ENCODER_FOLDER / name
    file.write_text(file.read_text() + " ")
    with pytest.raises(ConfigError, match=f"{name}: was changed"):
        _serve(tmp_path / "router")
    file.unlink()
    with pytest.raises(ConfigError, match=f"{name}: cannot be read"):
        _serve(tmp_path / "router")


def test_a_file_name_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    published = _publish(tmp_path, "albert")
    _import(published, tmp_path / "router")
    path = tmp_path / "router" / MANIFEST_FILE
    path.write_text(path.read_text().replace('"config.json"', '"../router.json"'))
    with pytest.raises(ConfigError, match="version does not match"):
        _serve(tmp_path / "router")
