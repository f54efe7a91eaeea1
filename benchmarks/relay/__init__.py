"""Measures what a front spends on each token that it relays; see ``__main__``."""
