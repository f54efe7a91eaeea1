"""An hour of mixed traffic on a local cluster with its books kept: python -m benchmarks.soak."""
