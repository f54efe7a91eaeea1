"""Requests of every outcome, and the lines of the log that they must leave."""
