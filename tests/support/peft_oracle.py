"""Adapters made by PEFT, and PEFT's own model with a weight for each adapter in each layer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch

ALL_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_adapters(
    base: Any, options: Mapping[str, Mapping[str, Any]], folder: Path, *, std: float = 1.0
) -> peft.PeftModel:
    """Save random adapters to ``folder``/<name>; returns the PEFT model that holds them all."""
    model: Any = None
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for name, chosen in options.items():
            config = peft.LoraConfig(**chosen, init_lora_weights=False)
            if model is None:
                model = peft.get_peft_model(base, config, adapter_name=name)
            else:
                model.add_adapter(name, config)
        for path, parameter in model.named_parameters():
            if "lora_" in path:
                parameter.data.normal_(std=std * parameter.shape[1] ** -0.5)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model.eval()


class WeightedPeft:
    """All adapters at once: the output of each one's B times a weight of its own.

    ``weigh(layer, hidden [B, T, d])`` gives weights [B, T, k] for all modules of the layer, or
    [B, T, k, 7] for each in the order of `ALL_MODULES`.
    """

    def __init__(
        self,
        model: peft.PeftModel,
        order: Sequence[str],
        weigh: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> None:
        self.model = model
        model.base_model.set_adapter(list(order))
        layers = model.get_base_model().model.layers
        self._hooks = []
        for index, layer in enumerate(layers):
            current: dict[str, torch.Tensor] = {}

            def enter(_: Any, args: Any, kwargs: Any, index=index, current=current) -> None:
                current["w"] = weigh(index, args[0] if args else kwargs["hidden_states"])

            self._hooks.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
            for path, module in layer.named_modules():
                parent, _, name = path.rpartition(".")
                if parent.endswith("lora_B") and name in order:

                    def scale(
                        _: Any,
                        inputs: Any,
                        output: torch.Tensor,
                        current=current,
                        adapter=order.index(name),
                        slot=ALL_MODULES.index(parent.split(".")[-2]),
                    ) -> torch.Tensor:
                        w = current["w"][..., adapter] if current["w"].ndim == 3 else None
                        w = current["w"][..., adapter, slot] if w is None else w
                        return output * w.unsqueeze(-1)

                    self._hooks.append(module.register_forward_hook(scale))

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Compute [T, vocabulary] in fp32."""
        with torch.inference_mode():
            return self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0]

    def close(self) -> None:
        """Take the weights out again."""
        for hook in self._hooks:
            hook.remove()
