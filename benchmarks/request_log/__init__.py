"""Proves that every request, however it ends, has its line in the log in time."""
