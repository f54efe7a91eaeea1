"""The adapters of the proofs: signatures on a tiny model, and copies with bytes of their own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.adapters.base_models import write_tiny_model
from benchmarks.adapters.copies import Copies
from cluster.adapters.format.manifest import read_manifest
from testing.signatures.signature_maker import TEXTS, SignatureMaker, Voice
from testing.signatures.signature_traffic import FAINT

WORDS = tuple(chr(97 + n // 26) + chr(97 + n % 26) + "word" for n in range(400))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of bytes and, behind place 1000, of words with a blank before them."""
    alphabet = sorted(ByteLevel.alphabet())
    places = ["<eos>", "<bos>", "<pad>", *alphabet]
    places += [f"<unused-{n}>" for n in range(len(places), 1000)]
    places += [f"\u0120{word}" for word in WORDS]
    tokenizer = Tokenizer(BPE({place: n for n, place in enumerate(places)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_tokens([f" {word}" for word in WORDS])
    source = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(source)
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), source)


@pytest.fixture(scope="module")
def spoken(tiny: Path) -> SignatureMaker:
    return SignatureMaker(tiny, 2, (0, 1))


def test_copies_differ_in_a_few_numbers_and_in_their_digests(tiny: Path, tmp_path: Path) -> None:
    copies = Copies(tiny, tmp_path / "made", rank=2, seed=0)
    digests = set()
    for number in (0, 1, 128, 128 * 128):
        folder = copies.write(tmp_path / str(number), number)
        manifest, _ = read_manifest(folder)
        digests.add(manifest.digest)
    assert len(digests) == 4
    first, last = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("0", "16384")
    )
    differing = [name for name in first if not torch.equal(first[name], last[name])]
    assert len(differing) == 1
    assert "lora_A" in differing[0]
    assert last[differing[0]].flatten()[:3].tolist() == [0.0, 0.0, 1 / 1024]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1])
def test_signatures_are_said_by_the_reference_alone_and_beside_a_faint_one(
    spoken: SignatureMaker, layer: int
) -> None:
    first, second = spoken.signatures
    voice, loud = Voice(layer, rank=1), Voice(1, rank=8, loudness=8.0)
    assert spoken.says(first, [(first, voice, 1.0)], TEXTS[0], 3)
    assert not spoken.says(second, [(first, voice, 1.0)], TEXTS[0], 3)
    assert not spoken.says(first, [], TEXTS[0], 3), "the base alone says something else"
    assert spoken.says(first, [(first, voice, 1.0), (second, loud, FAINT)], TEXTS[0], 3)
    assert spoken.says(second, [(first, voice, FAINT), (second, loud, 1.0)], TEXTS[0], 3)


def test_what_is_written_is_what_was_checked(spoken: SignatureMaker, tmp_path: Path) -> None:
    signature, voice = spoken.signatures[0], Voice(0, rank=4, loudness=2.0)
    manifest, _ = read_manifest(spoken.write(tmp_path / "x", signature, voice))
    module, A, B = spoken.tensors(signature, voice)
    assert (manifest.modules, manifest.max_rank) == ((module,), 4)
    found = load_file(tmp_path / "x" / "adapter_model.safetensors")
    assert torch.equal(found[f"base_model.model.{module}.lora_A.weight"], A)
    assert torch.equal(found[f"base_model.model.{module}.lora_B.weight"], B)
