"""Keeps decisions: signed, with a time to live, in Redis or in memory."""
