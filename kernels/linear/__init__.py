"""Products of a few rows with a weight: what decoding spends most of its time on."""
