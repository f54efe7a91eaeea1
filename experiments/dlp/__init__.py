"""DLP-LoRA (arXiv 2410.01497): routing accuracy, routed quality, and what routing costs."""
