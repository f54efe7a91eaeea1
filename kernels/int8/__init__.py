"""Products with int8 weights: exact integer sums, a scale per output, a scale per input row."""
