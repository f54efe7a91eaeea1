"""MiLoRA's router as functions (arXiv 2410.18035, section 3): pool, activate, project, choose."""

import torch

from router_service.milora.milora_schema import NUM_MODULES, Pooling, Weighting


def pool(
    hidden: torch.Tensor, mask: torch.Tensor, how: Pooling, query: torch.Tensor | None
) -> torch.Tensor:
    """Pool one vector [B, d] for each prompt.

    Args:
        hidden: rows that enter the layer, [B, T, d], fp32.
        mask: [B, T] bool, true at the prompt's tokens; the other rows are ignored. Every prompt has
            one token or more.
        how: "self_attention" is ``softmax(H q)^T H`` over the prompt's positions.
        query: q [d], of "self_attention" alone.
    """
    kept = mask.unsqueeze(-1)
    if how == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, positions, -1).amax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    if how == "max":
        return hidden.masked_fill(~kept, -torch.inf).amax(dim=1)
    present = hidden.masked_fill(~kept, 0.0)
    if how == "mean":
        return present.sum(dim=1) / mask.sum(dim=1, keepdim=True)
    assert query is not None
    scores = (present @ query).masked_fill(~mask, -torch.inf)
    return (scores.softmax(dim=1).unsqueeze(1) @ present).squeeze(1)


def choose(logits: torch.Tensor, top_k: int, weighting: Weighting) -> torch.Tensor:
    """Choose weights [B, 7] of a layer's modules; 0 if not chosen; of equals the first is chosen.

    Logits are sorted, not their softmax: of rows that are not normalised they lie thousands apart,
    and all probabilities but one or two are exactly 0 in fp32. With "mask" a chosen module's weight
    is 1, so that all seven chosen are plain LoRA, and the gradient is that of the probabilities, of
    all modules (straight through). With "prob_renorm" it is the softmax of the chosen logits.
    """
    order = logits.detach().sort(dim=-1, descending=True, stable=True).indices
    chosen = torch.zeros_like(logits).scatter(-1, order[..., :top_k], 1.0)
    if weighting == "prob_renorm":
        return logits.masked_fill(chosen == 0, -torch.inf).softmax(dim=-1)
    probabilities = logits.softmax(dim=-1)
    if weighting == "prob":
        return probabilities * chosen
    return chosen + (probabilities - probabilities.detach())


def balance_loss(logits: torch.Tensor) -> torch.Tensor:
    """Compute ``7 * sum_i f_i * mean(p_i)`` of one layer; 1 if the modules are used alike.

    f_i is the share of the batch's prompts whose likeliest module is i.

    Args:
        logits: [B, 7].
    """
    probabilities = logits.softmax(dim=-1)
    likeliest = logits.detach().argmax(dim=-1)
    share = torch.nn.functional.one_hot(likeliest, NUM_MODULES).to(probabilities.dtype).mean(dim=0)
    return NUM_MODULES * (share * probabilities.mean(dim=0)).sum()
