"""Compiling the Triton LoRA kernels before a request waits for them."""

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.lora_triton_dispatch import add_lora_operator

_RUN = 2
"""Tokens of a row that is not launched as a decode row."""


def compile_kernels(like: TritonLoraBatch) -> None:
    """Run both forms once at every site of a batch's bank, over an adapter of zeros in a bank of
    its own: the first prompt with an adapter would else wait some seconds for the compiler."""
    sites, dtype, device = like.bank.sites, like.bank.dtype, like.bank.device
    bank = AdapterBank(sites, 1, like.bank.max_rank, dtype, device)
    bank.write(
        0,
        {
            path: (torch.zeros(1, site.in_features), torch.zeros(width, 1), 1.0)
            for site in sites
            for path, width in site.out_slices
        },
    )
    batch = TritonLoraBatch(bank, max_tokens=_RUN, max_rows=1, max_pairs=like.max_pairs)
    run = add_lora_operator()
    for tokens in (1, _RUN):
        batch.update([(tokens, ((0, 1.0),))])
        for index, site in enumerate(sites):
            x = torch.zeros((tokens, site.in_features), dtype=dtype, device=device)
            y = torch.zeros((tokens, site.out_features), dtype=dtype, device=device)
            run(y, x, index, batch, None)
