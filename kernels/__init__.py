"""The mathematics of Braid: fused multi-LoRA operators and paged attention.

Nothing is imported here. Hugging Face publishes a distribution that is also called ``kernels``,
and transformers probes for it by reading ``__version__``: the value below must stay outside the
range it accepts (``tests/packaging`` guards this).
"""

__version__ = "0.1.0"
