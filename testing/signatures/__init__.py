"""Adapters that can be told apart by what they say, and traffic that checks every token."""
