"""Known ways to pick, to place and to scale, which Braid's are compared with."""
