"""Training: LoRA adapters here, routers beside them."""
