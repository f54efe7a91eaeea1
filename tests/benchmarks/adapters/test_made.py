"""The adapters of the proofs: signatures on a tiny model, and copies with bytes of their own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from benchmarks.adapters.base_models import write_tiny_model
from benchmarks.adapters.copies import Copies
from cluster.adapters.manifest import read_manifest


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = {word: n for n, word in enumerate(["<eos>", "<bos>", "<pad>", *"abcdefgh"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = Whitespace()
    source = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(source)
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), source)


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
