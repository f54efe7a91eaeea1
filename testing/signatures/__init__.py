"""Adapters that can be recognised by their answers, and traffic that checks every token."""
