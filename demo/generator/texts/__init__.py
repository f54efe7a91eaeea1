"""Texts that the demo's router is trained on, as patterns, and their expansion.

A file has one pattern a line. ``[a|b|]`` is one of its choices, ``{slot}`` one of the slot's values
(``vocabulary.txt``, and ``slot name: a | b`` lines of the file itself), both to any depth; a line
that begins with # is a comment.
"""
