"""Command line, machine and scheduling of several measurements."""
