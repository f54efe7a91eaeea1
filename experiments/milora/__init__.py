"""MiLoRA (arXiv 2410.18035): quality against plain LoRA, and tokens per second of decoding."""
