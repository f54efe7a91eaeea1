"""Proofs on a live cluster that adapters come and go without a wrong token or a pause."""
