"""An adapter folder as PEFT itself writes it, and the digest that names its version."""

import hashlib
import json
import math
import struct

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cluster.adapters.format.manifest import (
    AdapterDigester,
    read_adapter,
    read_adapter_files,
    read_manifest,
)
from cluster.adapters.format.peft_config import module_ranks
from cluster.adapters.format.safetensors_file import TensorInfo
from cluster.errors import (
    AdapterError,
    AdapterMalformed,
    AdapterPickle,
    AdapterUnsafePath,
    AdapterUnsupported,
)

WEIGHTS = "adapter_model.safetensors"


# PEFT 0.21 asks transformers 5.23 for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*layers\.0\.mlp\..*_proj", "use_rslora": True},
        {
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp.*": 6},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 32},
            "use_rslora": True,
        },
        {"target_modules": ["q_proj"], "exclude_modules": r".*layers\.0.*"},
    ],
    ids=["all-linear", "layers", "regex", "patterns", "exclude"],
)
def test_agrees_with_the_model_peft_saved(tmp_path, tiny_model, options):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model())
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=12, **options))
    wrapped.save_pretrained(tmp_path)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in wrapped.named_modules()
        if isinstance(module, peft.tuners.lora.Linear)
    }
    files = read_adapter_files(tmp_path)
    assert list(files.modules) == sorted(layers)
    for name, layer in layers.items():
        assert files.modules[name].rank == layer.r["default"]
        assert files.scaling(name) == pytest.approx(layer.scaling["default"], rel=1e-15)
    manifest, _ = read_manifest(tmp_path)
    assert manifest.max_rank == max(layer.r["default"] for layer in layers.values())
    assert manifest.modules == tuple(sorted(layers))
    assert module_ranks(manifest) == {name: layer.r["default"] for name, layer in layers.items()}
    assert manifest.nbytes == sum(p.nbytes for n, p in wrapped.named_parameters() if "lora_" in n)


def test_the_digest_is_of_content_not_of_circumstances(tmp_path, write_adapter, make_tensors):
    modules = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    tensors = make_tensors(modules, 4, 0)
    one, _ = read_manifest(write_adapter(tmp_path / "one", modules=modules, tensors=tensors))
    other = write_adapter(
        tmp_path / "other",
        modules=modules,
        tensors=tensors,
        notes={"description": "hello", "steps": 3},
        base_model_name_or_path="elsewhere",
        lora_dropout=0.5,
    )
    _reverse_data_order(other / WEIGHTS)
    two, _ = read_manifest(other)
    assert two.digest == one.digest
    assert (two.description, two.base_model) == ("hello", "elsewhere")


def _reverse_data_order(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data, moved = b"", {}
    for name in sorted(header, reverse=True):
        begin, end = header[name]["data_offsets"]
        moved[name] = header[name] | {"data_offsets": [len(data), len(data) + end - begin]}
        data += content[8 + length + begin : 8 + length + end]
    raw = json.dumps(moved).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": 9},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 3}},
        {"alora_invocation_tokens": [3]},
        {"seed": 1},
        {"notes": {"base_digest": "abc"}},
        {"modules": ["model.layers.0.self_attn.q_proj"]},
    ],
    ids=str,
)
def test_whatever_changes_the_function_changes_the_digest(tmp_path, write_adapter, change):
    before, _ = read_manifest(write_adapter(tmp_path / "before"))
    after, _ = read_manifest(write_adapter(tmp_path / "after", **change))
    assert before.digest != after.digest


def test_the_same_bits_as_another_dtype_are_another_version(tmp_path, write_adapter):
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    bits = torch.arange(32, dtype=torch.int16)
    digests = set()
    for dtype in (torch.float16, torch.bfloat16):
        tensors = {
            f"{stem}.lora_A.weight": bits.view(dtype).reshape(4, 8).clone(),
            f"{stem}.lora_B.weight": bits.view(dtype).reshape(8, 4).clone(),
        }
        folder = write_adapter(
            tmp_path / str(dtype), tensors=tensors, modules=["model.layers.0.self_attn.q_proj"]
        )
        digests.add(read_manifest(folder)[0].digest)
    assert len(digests) == 2


STEM = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings"),
        (f"{STEM}.lora_magnitude_vector.weight", "DoRA"),
        (f"{STEM}.lora_B.bias", "biases"),
        (f"{STEM}.base_layer.bias", "biases"),
        ("base_model.model.lm_head.modules_to_save.weight", "fully trained"),
        (f"{STEM}.lora_C.weight", "expected base_model.model.<module>.lora_A.weight"),
        ("base_model.model.model.layers.0.input_layernorm.weight", "weights of norms"),
        ("base_model.model.model.norm.weight", "weights of norms"),
        (f"{STEM}.weight", "fully trained weights"),
        ("model.layers.0.self_attn.q_proj.lora_a", "mlx's format"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "expected base_model.model."),
    ],
)
def test_unknown_tensors_are_refused_by_name(tmp_path, write_adapter, make_tensors, name, says):
    tensors = make_tensors(["model.layers.0.self_attn.q_proj"], 4, 0) | {name: torch.ones(2)}
    folder = write_adapter(tmp_path / "x", tensors=tensors)
    with pytest.raises(AdapterUnsupported, match=says) as refusal:
        read_manifest(folder)
    assert name in refusal.value.message


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t.pop(f"{STEM}.lora_B.weight"), "lora_B.weight: expected beside its partner"),
        (lambda t: t.pop(f"{STEM}.lora_A.weight"), "lora_A.weight: expected beside its partner"),
        (lambda t: t.clear(), "found none"),
        (
            lambda t: t.update({f"{STEM}.lora_A.weight": torch.ones(5, 8)}),
            r"r = 4 .*found \[5, 8\]",
        ),
        (
            lambda t: t.update({f"{STEM}.lora_B.weight": torch.ones(8, 3)}),
            r"r = 4 .*found \[8, 3\]",
        ),
        (lambda t: t.update({f"{STEM}.lora_A.weight": torch.ones(4)}), r"found \[4\]"),
        (lambda t: t.update({f"{STEM}.lora_A.weight": torch.ones(4, 0)}), r"found \[4, 0\]"),
        (lambda t: t.update({f"{STEM}.lora_A.weight": torch.ones(4, 8).int()}), "found I32"),
    ],
)
def test_tensors_must_agree_with_the_config(tmp_path, write_adapter, make_tensors, edit, says):
    tensors = make_tensors(["model.layers.0.self_attn.q_proj"], 4, 0)
    edit(tensors)
    with pytest.raises(AdapterError, match=says):
        read_manifest(write_adapter(tmp_path / "x", tensors=tensors))


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["v_proj"]},
        {"layers_to_transform": [0]},
        {"exclude_modules": ["q_proj"]},
        {"target_modules": r".*layers\.1.*"},
    ],
    ids=str,
)
def test_tensors_that_peft_would_not_use_are_refused(tmp_path, write_adapter, config):
    with pytest.raises(AdapterError, match="does not target"):
        read_manifest(write_adapter(tmp_path / "x", **config))


def test_symlinks_may_stay_inside_but_not_lead_out(tmp_path, write_adapter):
    folder = write_adapter(tmp_path / "x")
    (folder / WEIGHTS).rename(folder / "real")
    (folder / WEIGHTS).symlink_to("real")
    read_manifest(folder)
    (folder / "real").rename(tmp_path / "outside")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "outside")
    with pytest.raises(AdapterUnsafePath, match="symlink out of the adapter's folder"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS, "chat_template.jinja"])
@pytest.mark.parametrize("target", ["a loop", "missing"])
def test_a_symlink_that_leads_to_no_file_is_refused(tmp_path, write_adapter, name, target):
    """Also of a file that an adapter may do without: it was meant to be there."""
    folder = write_adapter(tmp_path / "x")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(name if target == "a loop" else target)
    with pytest.raises(AdapterMalformed, match=f"{name}: expected a file, found"):
        read_manifest(folder)


def test_another_adapter_s_name_in_the_tensors_names_is_noted(tmp_path, write_adapter):
    folder = write_adapter(tmp_path / "x")
    tensors = load_file(folder / WEIGHTS)
    for name, notes in (("default", 0), ("mine", 1)):
        named = {key.replace(".weight", f".{name}.weight"): t for key, t in tensors.items()}
        save_file(named, folder / WEIGHTS)
        found = [note for note in read_adapter(folder).notes if "tensors' names" in note]
        assert len(found) == notes
        assert all(name in note for note in found)


def test_symlinks_may_lead_to_where_they_are_allowed(tmp_path, write_adapter):
    folder = write_adapter(tmp_path / "snapshots" / "x")
    (tmp_path / "blobs").mkdir()
    (folder / WEIGHTS).rename(tmp_path / "blobs" / "1")
    (folder / WEIGHTS).symlink_to("../../blobs/1")
    read_manifest(folder, links_below=tmp_path)
    with pytest.raises(AdapterUnsafePath):
        read_manifest(folder, links_below=tmp_path / "snapshots")


def test_pickle_files_are_never_opened(tmp_path, write_adapter):
    folder = write_adapter(tmp_path / "x")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterPickle, match="pickle"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS])
def test_missing_files_are_named(tmp_path, write_adapter, name):
    folder = write_adapter(tmp_path / "x")
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"{name}: expected a file"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("labels", "key"),
    [
        ({"base_digest": 3}, "base_digest"),
        ({"description": [1]}, "description"),
        ({"description": "red \x1b[31m"}, r"description: found the control character U\+001B"),
        ({"tags": ["fine", "evil \u202e"]}, r"tags\[1\]: found the control character U\+202E"),
        ({"description": "a" * 2001}, "description: expected at most 2000 characters, found 2001"),
        ({"tags": ["a"] * 33}, "tags: expected at most 32, found 33"),
    ],
)
def test_malformed_labels_are_named(tmp_path, write_adapter, labels, key):
    with pytest.raises(AdapterError, match=key):
        read_manifest(write_adapter(tmp_path / "x", notes={"base_digest": "b"} | labels))


@pytest.mark.parametrize(
    "labels",
    [[1], {"description": {"long": 1}}, {"tags": {"a": 1}}, {"tags": "one"}, {"description": 3}],
)
def test_a_manifest_of_another_tool_is_not_read(tmp_path, write_adapter, labels):
    found = read_adapter(write_adapter(tmp_path / "x", notes=labels))
    assert (found.manifest.description, found.tags) == ("", ())
    assert found.notes == ("manifest.json: another tool's, not read",)


def test_null_is_absent(tmp_path, write_adapter):
    nothing = {"base_digest": None, "description": None, "tags": None, "name": "x"}
    found = read_adapter(write_adapter(tmp_path / "x", notes=nothing))
    assert (found.manifest.base_digest, found.manifest.description, found.tags) == (None, "", ())
    assert not found.notes


def test_labels_may_be_in_any_language(tmp_path, write_adapter):
    notes = {
        "description": "Größe\u00a0– 大きさ\n\tzwei \U0001f469\u200d\U0001f680",
        "tags": ["ümläut"],
    }
    manifest, tags = read_manifest(write_adapter(tmp_path / "x", notes=notes))
    assert (manifest.description, list(tags)) == (notes["description"], notes["tags"])


def test_rslora_scaling_is_alpha_over_the_root_of_r(tmp_path, write_adapter):
    files = read_adapter_files(write_adapter(tmp_path / "x", use_rslora=True))
    assert files.scaling("model.layers.0.self_attn.q_proj") == 8 / math.sqrt(4)


def test_the_digest_is_what_the_format_says(tmp_path, write_adapter):
    """Written out once more, with the standard library's JSON; stored versions depend on it."""
    folder = write_adapter(tmp_path / "adapter")
    files = read_adapter_files(folder)
    digester = AdapterDigester(files)
    rules = {
        "rank": files.config.rank,
        "alpha": files.config.alpha,
        "use_rslora": False,
        "rank_pattern": [],
        "alpha_pattern": [],
        "base_digest": None,
    }
    expected = hashlib.sha256(b"braid-adapter-1\n")
    expected.update(json.dumps(rules, sort_keys=True).encode() + b"\n")
    for name in ("plain.weight", 'a "quoted" \\ name', "gr\u00f6\u00dfe\u2028\U0001f600\x7f\t"):
        info = TensorInfo(name, "BF16", (2, 3), 0, 12)
        digester.update(info, memoryview(bytes(12)))
        expected.update(json.dumps([name, "BF16", [2, 3]]).encode() + b"\n" + bytes(12))
    assert digester.finish() == expected.hexdigest()
