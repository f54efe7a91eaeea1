"""Phase: the LoRA kernels at one layer's sites, next to torch's ways, vLLM's kernels and the base's
own products, over so many layers' worth of adapters that they do not stay in the cache."""

from collections.abc import Callable, Sequence

import torch

from benchmarks.gpu.device_time import captured, device_us
from benchmarks.gpu.lora.own_lora import AddAt, OwnLora
from benchmarks.gpu.lora.torch_lora import TorchLora
from benchmarks.gpu.lora.vllm_lora import VllmLora
from benchmarks.gpu.phase_run import PhaseRun
from benchmarks.gpu.workloads import BASE, MIXED, ONE, RANK, WORKLOADS, Workload
from kernels.lora.lora_batch import Mixture

_LAYERS, _SLOTS = 8, 64
_ROWS = (1, 16, 64, 256)
_PROMPTS = ((128, ONE), (512, ONE), (2048, ONE), (2048, MIXED))
_MOST_GATHERED = 256
"""Pairs for which gathered copies still fit."""
_TOLERANCE = 2e-2
"""Of one adapter's sum in half precision, relative to its norm."""

MakeStep = Callable[[Sequence[Mixture], int], AddAt]


class LoraTimes:
    """Contestants over the same sites, and their buffers."""

    def __init__(self, run: PhaseRun) -> None:
        self._run = run
        self._layers, self._slots = (1, 4) if run.is_rehearsal else (_LAYERS, _SLOTS)
        self._dtype = torch.float32 if run.is_rehearsal else torch.bfloat16
        places = (run.size, self._layers, self._slots, run.device, self._dtype)
        self._own = OwnLora(*places)
        plain = TorchLora(*places)
        self._others: dict[str, MakeStep] = {"gathered": plain.gathered, "grouped": plain.grouped}
        if run.peer is not None:
            try:
                self._others["vllm"] = VllmLora(run.peer, *places).step
            except (ImportError, AttributeError, OSError) as error:
                run.record("problem", text=f"vLLM's kernels: {type(error).__name__}: {error}")
        self._weights = [
            {
                name: torch.randn(sum(w), inside, device=run.device).mul_(0.02).to(self._dtype)
                for name, (inside, w) in run.size.sites.items()
            }
            for _ in range(self._layers)
        ]

    def check(self) -> None:
        """Compare one adapter's sum with fp32, in both forms.

        Raises:
            AssertionError: it is off; then nothing should be timed.
        """
        for tokens in (1, 5):
            add = self._own.step([((0, 1.0),)], tokens)
            for name, (inside, widths) in self._run.size.sites.items():
                x = torch.randn(tokens, inside, device=self._run.device).to(self._dtype)
                y = torch.zeros(tokens, sum(widths), device=x.device, dtype=self._dtype)
                add(y, x, 0, name)
                want = self._own.expected(x, name)
                error = float((y.float() - want).norm() / want.norm())
                self._run.record("lora check", site=name, tokens=tokens, error=error)
                assert error < _TOLERANCE, f"{name}: {error}"

    def base(self, tokens: int) -> float:
        """Return the microseconds of a layer's own products."""

        def multiply(y: torch.Tensor, x: torch.Tensor, layer: int, site: str) -> None:
            torch.mm(x, self._weights[layer][site].t(), out=y)

        return self._time(multiply, tokens)

    def measure(self, workload: Workload, rows: int, tokens: int) -> None:
        """Record the microseconds of a layer by contestant, for rows of so many tokens each."""
        mixtures = workload.mixtures(rows, self._slots)
        pairs = sum(map(len, mixtures)) * tokens
        found: dict[str, float | str] = {
            "base": self.base(rows * tokens),
            "own": self._time(self._own.step(mixtures, tokens), rows * tokens),
        }
        for name, make in self._others.items():
            if name == "gathered" and pairs > _MOST_GATHERED:
                continue
            try:
                found[name] = self._time(make(mixtures, tokens), rows * tokens)
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                found[name] = f"{type(error).__name__}: {error}"[:120]
        item = self._dtype.itemsize
        one = self._run.size.adapter_weights(RANK) // self._run.size.layers * item
        self._run.record(
            "lora",
            size=self._run.size.name,
            rows=rows,
            tokens=tokens,
            workload=workload.name,
            pairs=pairs,
            distinct_mb=workload.distinct(rows, self._slots) * one / 1e6,
            us=found,
        )

    def _time(self, add: AddAt, tokens: int) -> float:
        device, sites = self._run.device, self._run.size.sites
        xs = {
            inside: torch.randn(tokens, inside, device=device).to(self._dtype)
            for inside, _ in sites.values()
        }
        ys = {
            name: torch.zeros(tokens, sum(widths), device=device, dtype=self._dtype)
            for name, (_, widths) in sites.items()
        }

        def all_layers() -> None:
            for layer in range(self._layers):
                for name, (inside, _) in sites.items():
                    add(ys[name], xs[inside], layer, name)

        with torch.inference_mode():
            return device_us(captured(all_layers, device), device, 0.15) / self._layers


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the phase."""
    run = PhaseRun.of(arguments)
    torch.manual_seed(0)
    times = LoraTimes(run)
    times.check()
    if run.is_rehearsal:
        plan = [(2, 1, MIXED), (1, 3, ONE)]
    else:
        plan = [(1, tokens, workload) for tokens, workload in _PROMPTS]
        plan += [(rows, 1, each) for rows in _ROWS for each in WORKLOADS if each is not BASE]
    for rows, tokens, workload in plan:
        if run.is_late():
            return
        times.measure(workload, rows, tokens)


if __name__ == "__main__":
    main()
