"""Every kernel, launched as it would be on a GPU, compiles to machine code for one.

Triton's compiler and assembler need no device. What they say about a kernel is checked: that rows
of adapters and of the cache move as vectors, that tiles use tensor cores, that next to nothing is
spilled, that no multiprocessor is left to a single program.
"""

import importlib
import re
import subprocess
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.attention.cache import LayerKVCache
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.sites import FusedSite

VECTOR_LOAD = r"ld\.global\.v4|cp\.async\.cg\.shared\.global \[[^\]]*\], \[[^\]]*\], 0x10"
TENSOR_CORE = r"mma\.sync|wgmma\.mma_async"

SPILLED = 24
"""Bytes per thread: the assembler gives up some invariants for one more program at a time."""

REGISTERS = 64 * 1024
"""Of a multiprocessor; a thread's come in eights."""

SHARED = {80: 164 * 1024, 90: 228 * 1024}
"""Bytes of shared memory of a multiprocessor, by capability."""

OWN_SHARED = 1024
"""Bytes that the driver takes of it for each program."""

_TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}


@pytest.fixture(autouse=True)
def compiler_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(launch, capability):
    """Compile a launch to machine code, specialised as Triton would.

    Multiples of 16 are known as such.
    """
    constants = {n: v for n, v in launch.options.items() if n in launch.kernel.arg_names}
    options = {n: v for n, v in launch.options.items() if n not in constants}
    signature, attributes = {}, {}
    for index, (name, value) in enumerate(
        zip(launch.kernel.arg_names, (*launch.args, *constants.values()), strict=True)
    ):
        general = index in launch.kernel.do_not_specialize or name in (
            launch.kernel.do_not_specialize
        )
        if name in constants:
            signature[name] = "constexpr"
        elif isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[index,] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if value % 16 == 0 and not general:
                attributes[index,] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def usage(cubin, folder):
    """Return the registers of a thread, and its bytes that registers have no room for."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run(
        [tool, "-res-usage", path], capture_output=True, text=True, check=True
    ).stdout
    return tuple(int(re.search(rf"{word}:(\d+)", told).group(1)) for word in ("REG", "STACK"))


def check_usage(launch, code, capability, folder):
    """Assert that next to nothing is spilled, and that a multiprocessor holds two programs."""
    registers, spilled = usage(code.asm["cubin"], folder)
    assert spilled <= SPILLED, launch.name
    threads = 32 * launch.options["num_warps"]
    assert 2 * threads * -(-registers // 8) * 8 <= REGISTERS, (launch.name, registers)
    assert 2 * (code.metadata.shared + OWN_SHARED) <= SHARED[capability], launch.name


def lora_launches(record_launches):
    ops = importlib.import_module("kernels.lora.lora_triton_ops")
    launches = record_launches(ops.__name__)
    sites = (FusedSite("qkv", 2048, (("q", 2048), ("k", 256), ("v", 256))),)
    bank = AdapterBank(sites, 2, 16, torch.bfloat16)
    bank.write(0, {"q": (torch.zeros(16, 2048), torch.zeros(2048, 16), 1.0)})
    batch = TritonLoraBatch(bank, max_tokens=4, max_rows=4)
    for rows in ([(1, ((0, 1.0),))] * 4, [(4, ((0, 1.0),))]):
        batch.update(rows)
        x, y = torch.zeros(4, 2048).bfloat16(), torch.zeros(4, 2560).bfloat16()
        ops.add_lora(y, x, 0, batch)
    return launches


def attention_launches(record_launches):
    ops = importlib.import_module("kernels.attention.attention_triton_ops")
    launches = record_launches(ops.__name__)
    cache = LayerKVCache.allocate(4, 16, 2, 128, dtype=torch.bfloat16)
    batch = TritonPagedBatch(max_tokens=8, max_rows=2, max_len=4096, block_size=16, device="cpu")
    batch.update([[0], [1]], [5, 0], [1, 3])
    fused = torch.zeros(4, 12, 128).bfloat16()
    ops.store_fused_kv(fused[:, 8:], cache, batch)
    ops.paged_attention(fused[:, :8], cache, batch, 0.1)
    return launches


@pytest.mark.parametrize("capability", [80, 90], ids=["sm80", "sm90"])
def test_lora_kernels(record_launches, capability, tmp_path):
    launches = lora_launches(record_launches)
    assert [launch.name for launch in launches] == [
        "decode_shrink",
        "decode_expand",
        "runs_shrink",
        "runs_expand",
    ]
    for launch in launches:
        code = compiled(launch, capability)
        assert re.search(VECTOR_LOAD, code.asm["ptx"]), launch.name
        tiled = launch.name.startswith("run")
        assert bool(re.search(TENSOR_CORE, code.asm["ptx"])) == tiled, launch.name
        check_usage(launch, code, capability, tmp_path)


def test_attention_kernels(record_launches, tmp_path):
    launches = attention_launches(record_launches)
    assert [launch.name for launch in launches] == ["store", "decode", "merge", "prefill"]
    for launch in launches:
        code = compiled(launch, 90)
        assert re.search(VECTOR_LOAD, code.asm["ptx"]), launch.name
        tiled = launch.name in ("decode", "prefill")
        assert bool(re.search(TENSOR_CORE, code.asm["ptx"])) == tiled, launch.name
        check_usage(launch, code, 90, tmp_path)
