"""LoRA-Flow (arXiv 2402.11455): a skill in a format, and what the gate costs."""
