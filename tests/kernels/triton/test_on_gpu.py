"""The Triton kernels as compiled, on a GPU: same references, sizes of real models."""

import pytest
import torch

from kernels.attention.attention_reference import paged_attention_reference
from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.attention.attention_triton_dispatch import attention_operators
from kernels.attention.cache import LayerKVCache
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_reference import add_lora_reference
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.lora_triton_dispatch import add_lora_operator, available
from kernels.lora.sites import FusedSite
from kernels.tolerances import assert_close
from kernels.upload import Upload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
SITE = FusedSite("qkv", 2048, (("q", 2048), ("k", 256), ("v", 250)))
RANKS = (1, 3, 8, 16, 64, 128)


@pytest.fixture
def device():
    device = torch.device("cuda")
    if not available(device):
        pytest.skip("needs compute capability 8.0")
    return device


def lora(device, dtype):
    adapters = {
        slot: {
            path: (torch.randn(rank, 2048) / 45, torch.randn(width, rank) / rank, 2.0)
            for path, width in SITE.out_slices
        }
        for slot, rank in enumerate(RANKS)
    }
    bank = AdapterBank((SITE,), len(RANKS), 128, dtype, device)
    for slot, tensors in adapters.items():
        bank.write(slot, tensors)
    return adapters, TritonLoraBatch(bank, max_tokens=256, max_rows=16)


def tensors(tokens, device, dtype):
    x = torch.randn(tokens, SITE.in_features).to(device, dtype)
    return x, torch.randn(tokens, SITE.out_features).to(device, dtype)


def reference(y, x, adapters, rows):
    mixtures = [mixture for count, mixture in rows for _ in range(count)]
    mixtures += [()] * (len(y) - len(mixtures))
    return add_lora_reference(y.cpu(), x.cpu(), adapters, SITE.out_slices, mixtures)


def test_an_upload_is_after_what_was_given_before_and_before_what_comes(device):
    upload = Upload(device)
    source = torch.arange(64 * 2**20, dtype=torch.float32)
    for round_number in range(3):
        target = torch.full_like(source, -1.0, device=device)  # written by the stream before
        target.mul_(round_number + 1)
        upload.copy(target, source)
        total = target[-1000:].sum()
        assert total == source[-1000:].sum().to(device)
        assert torch.equal(target[:1000].cpu(), source[:1000])


DECODE = [(1, ((slot, 1.0), ((slot + 2) % 6, -0.5))) for slot in range(6)] + [(1, ())]
MIXED = [(100, ((2, 1.0),)), (1, ((5, 0.5),)), (3, ()), (65, ((0, 1.0), (3, 2.0), (4, -1.0)))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [DECODE, MIXED], ids=["decode", "runs"])
def test_lora(device, dtype, rows):
    adapters, batch = lora(device, dtype)
    batch.update(rows)
    x, y = tensors(batch.tokens, device, dtype)
    want = reference(y, x, adapters, rows)
    add_lora_operator()(y, x, 0, batch, None)
    assert_close("lora", y.cpu(), want)


def test_a_captured_graph_follows_the_buffers(device):
    adapters, batch = lora(device, torch.bfloat16)
    x, y = tensors(8, device, torch.bfloat16)
    run = add_lora_operator()
    batch.update([], pad_to=8)
    run(y, x, 0, batch, None)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(y, x, 0, batch, None)
    for rows in (DECODE, DECODE[2:4], [(1, ())], [(1, ((5, 1.0),))] * 8):
        adapters[5] = {p: (a, 2 * b, s) for p, (a, b, s) in adapters[5].items()}
        batch.bank.write(5, adapters[5])
        batch.update(rows, pad_to=8)
        for target, source in zip((x, y), tensors(8, device, torch.bfloat16), strict=True):
            target.copy_(source)
        want = reference(y, x, adapters, rows)
        graph.replay()
        assert_close("lora", y.cpu(), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("dim", "window"), [(64, None), (128, None), (128, 100), (80, None)])
def test_attention(device, dtype, dim, window):
    contexts, counts = [700, 0, 40, 300], [1, 1, 70, 1]
    tables = [[6 * number + block for block in range(6)] for number in range(4)]
    cache = LayerKVCache.allocate(24, 128, 2, dim, dtype=dtype, device=device)
    cache.kv.copy_(torch.randn(cache.kv.shape))
    batch = TritonPagedBatch(
        max_tokens=128, max_rows=4, max_len=1024, block_size=128, device=device
    )
    batch.update(tables, contexts, counts)
    fused = torch.randn(batch.tokens, 8, dim).to(device, dtype)
    store_fused_kv, paged_attention = attention_operators()
    store_fused_kv(fused[:, 4:], cache, batch)
    got = paged_attention(fused[:, :4], cache, batch, dim**-0.5, window)
    want = paged_attention_reference(
        fused[:, :4].cpu(),
        cache.k.cpu(),
        cache.v.cpu(),
        tables,
        contexts,
        counts,
        dim**-0.5,
        window,
    )
    assert_close("attention", got.cpu(), want)
