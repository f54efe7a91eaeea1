"""Native kernels on torch's threads, as many as there really are."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import torch
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.lora_reference import add_lora_reference
from kernels.lora.sites import FusedSite
from kernels.lora.torch_ops import add_lora
from kernels.tolerances import assert_close

torch.set_num_threads(2)
site = FusedSite("o", 64, (("o", 64),))
adapters = {slot: {"o": (torch.randn(8, 64), torch.randn(64, 8), 1.0)} for slot in range(8)}
bank = AdapterBank((site,), 8, 8)
for slot, tensors in adapters.items():
    bank.write(slot, tensors)
mixtures = [((slot, 1.0),) for slot in range(8)]
x, y = torch.randn(8, 64), torch.zeros(8, 64)
want = add_lora_reference(y, x, adapters, site.out_slices, mixtures)
add_lora(y, x, bank, 0, LoraBatch.build([(1, mixture) for mixture in mixtures], bank))
assert_close("lora", y, want)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["1", "2"])
def test_no_share_is_lost_where_fewer_threads_may_run(limit):
    environment = {**os.environ, "OMP_THREAD_LIMIT": limit}
    subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, check=True, timeout=120)
