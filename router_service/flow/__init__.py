"""LoRA-Flow: per-layer, per-token gates over adapters (arXiv 2402.11455)."""
