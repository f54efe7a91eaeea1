"""The small operations between a decoder's products, each in one pass."""
