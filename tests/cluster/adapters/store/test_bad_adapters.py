"""Every adapter that must be refused, really made so, and what the refusal leaves behind."""

import json
import os
import struct

import pytest
import torch

from cluster.adapters.sources import FolderSource
from cluster.errors import (
    AdapterMalformed,
    AdapterNotFinite,
    AdapterPickle,
    AdapterRankTooHigh,
    AdapterTooLarge,
    AdapterUnsafePath,
    AdapterUnsupported,
    AdapterWrongBase,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "model.layers.0.self_attn.q_proj"
Q_A = f"base_model.model.{Q}.lora_A.weight"


@pytest.fixture
def refused(store, listing, adapter, tmp_path):
    """Add the folder ``root/bad``, which must be refused; nothing may change in the store."""

    async def add(error, says: str, into=store) -> None:
        kept = await store.add(FolderSource(tmp_path / "root", "adapter"))
        before = listing()
        with pytest.raises(error) as refusal:
            await into.add(FolderSource(tmp_path / "root", "bad"))
        assert type(refusal.value) is error
        assert says in refusal.value.message
        assert str(tmp_path) not in refusal.value.message
        assert listing() == before
        store.verify(kept.digest)

    return add


@pytest.fixture
def bad(tmp_path, write_adapter):
    """A good folder to be spoilt."""
    return write_adapter(tmp_path / "root" / "bad", seed=7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_values_that_are_not_finite(
    refused, write_adapter, make_tensors, tmp_path, dtype, value
):
    tensors = {name: t.to(dtype) for name, t in make_tensors([Q], 4, 0).items()}
    tensors[Q_A][2, 5] = value
    write_adapter(tmp_path / "root" / "bad", modules=[Q], tensors=tensors, layers_to_transform=[0])
    await refused(AdapterNotFinite, f"{WEIGHTS}: {Q_A}: expected finite values, found 1")
    await refused(AdapterNotFinite, "the first at [2, 5]")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
async def test_the_largest_and_smallest_finite_values_pass(
    store, write_adapter, make_tensors, tmp_path, dtype
):
    tensors = {name: t.to(dtype) for name, t in make_tensors([Q], 4, 0).items()}
    limits = torch.finfo(dtype)
    tensors[Q_A][0, :4] = torch.tensor(
        [limits.max, limits.min, limits.smallest_normal, -0.0], dtype=dtype
    )
    write_adapter(tmp_path / "root" / "big", modules=[Q], tensors=tensors, layers_to_transform=[0])
    await store.add(FolderSource(tmp_path / "root", "big"))


async def test_limits(refused, bad, make_store):
    await refused(
        AdapterRankTooHigh, "rank of at most 3 (adapters.max_rank), found 4", make_store(max_rank=3)
    )
    await refused(
        AdapterTooLarge, "at most 100 bytes (adapters.memory_bytes)", make_store(max_bytes=100)
    )
    await refused(AdapterTooLarge, "(max_source_bytes)", make_store(max_source_bytes=1000))


async def test_another_base(refused, write_adapter, make_tensors, tmp_path):
    bad = tmp_path / "root" / "bad"
    write_adapter(bad, seed=7, notes={"base_digest": "base-2"})
    await refused(AdapterWrongBase, "manifest.json: trained on base base-2")
    (bad / "manifest.json").unlink()
    tensors = make_tensors([Q], 4, 0)
    tensors[Q_A] = torch.zeros(4, 9)
    write_adapter(bad, modules=[Q], tensors=tensors, layers_to_transform=[0])
    await refused(AdapterWrongBase, f"{Q_A}: expected shape [4, 8], found [4, 9]")
    renamed = {n.replace("q_proj", "x_proj"): t for n, t in make_tensors([Q], 4, 0).items()}
    write_adapter(bad, tensors=renamed, target_modules=["x_proj"])
    await refused(AdapterWrongBase, "no linear module model.layers.0.self_attn.x_proj")


async def test_features_that_are_not_served(refused, bad, write_adapter):
    write_adapter(bad, use_dora=True)
    await refused(AdapterUnsupported, "DoRA (use_dora) is not served")
    write_adapter(bad, peft_type="IA3")
    await refused(AdapterUnsupported, "peft_type: expected 'LORA', found 'IA3'")


async def test_a_config_that_cannot_be_understood(refused, bad):
    content = (bad / CONFIG).read_text()
    for text, says in (
        ("", "not JSON"),
        (content[:-5], "not JSON"),
        ("[]", "expected an object"),
        ("[" * 100_000, "not JSON"),
        ("\udc80", "not JSON"),
        (content.replace('"r": 4', '"r": 4, "r": 8'), "named more than once: r"),
        (content.replace('"r": 4', '"r": -1'), "r: expected a whole number"),
        (content.replace('"lora_alpha": 8', '"lora_alpha": NaN'), "lora_alpha: expected a finite"),
    ):
        (bad / CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
        await refused(AdapterMalformed, f"{CONFIG}: {says}")
    (bad / CONFIG).write_text(content + " " * 2**20)
    await refused(AdapterTooLarge, f"{CONFIG}: expected at most")


async def test_missing_files(refused, bad):
    (bad / WEIGHTS).unlink()
    await refused(AdapterMalformed, f"{WEIGHTS}: expected a file, found none")
    (bad / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    await refused(AdapterPickle, "adapter_model.bin: pickle files are never opened")
    (bad / WEIGHTS).write_bytes(b"\x80\x04\x95\x10" + bytes(60))
    (bad / CONFIG).unlink()
    await refused(AdapterMalformed, f"{CONFIG}: expected a file, found none")


async def test_weights_cut_anywhere(refused, bad):
    content = (bad / WEIGHTS).read_bytes()
    for kept in (0, 7, 8, 50, len(content) // 2, len(content) - 1):
        (bad / WEIGHTS).write_bytes(content[:kept])
        await refused(AdapterMalformed, f"{WEIGHTS}: ")
    (bad / WEIGHTS).write_bytes(content + b"\0")
    await refused(AdapterMalformed, f"{WEIGHTS}: expected")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data_offsets": [0, 4]}, "expected 128 bytes for F32"),
        ({"data_offsets": [64, 192]}, "expected its data at byte"),
        ({"data_offsets": [0, 2**62]}, "expected 128 bytes for F32"),
        ({"data_offsets": [-128, 0]}, "expected [begin, end]"),
        ({"dtype": "F31"}, "expected a known dtype"),
        ({"shape": [4, 2**61]}, "bytes for F32"),
        ({"shape": [4.0, 8]}, "expected a shape of sizes"),
        ({"more": 1}, "expected dtype, shape and data_offsets"),
    ],
)
async def test_headers_that_contradict_themselves(refused, bad, change, says):
    content = (bad / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header[Q_A] |= change
    raw = json.dumps(header).encode()
    (bad / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])
    await refused(AdapterMalformed, says)


async def test_a_header_longer_than_the_file(refused, bad):
    content = (bad / WEIGHTS).read_bytes()
    (bad / WEIGHTS).write_bytes(struct.pack("<Q", 2**63) + content[8:])
    await refused(AdapterMalformed, "header: expected at most")


async def test_one_tensor_twice(refused, bad):
    content = (bad / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].strip()
    raw = header[:-1] + b"," + header[1:]
    (bad / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])
    await refused(AdapterMalformed, "header: named more than once: base_model.model")


async def test_files_that_are_no_files(refused, bad, tmp_path):
    weights = (bad / WEIGHTS).rename(tmp_path / "elsewhere")
    (bad / WEIGHTS).symlink_to(weights)
    await refused(AdapterUnsafePath, f"{WEIGHTS}: a symlink out of the folder that adapters may")
    (bad / WEIGHTS).unlink()
    os.mkfifo(bad / WEIGHTS)
    await refused(AdapterUnsafePath, f"{WEIGHTS}: expected a regular file")
    (bad / WEIGHTS).unlink()
    (bad / WEIGHTS).mkdir()
    await refused(AdapterUnsafePath, f"{WEIGHTS}: expected a regular file")


async def test_a_folder_that_is_a_symlink(refused, adapter, tmp_path):
    (tmp_path / "root" / "bad").symlink_to(adapter)
    await refused(AdapterUnsafePath, "bad: expected a folder, found a symlink")
