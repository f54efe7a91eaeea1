"""MiLoRA: which modules of an adapter are active for a prompt (arXiv 2410.18035)."""
