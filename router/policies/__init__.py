"""Replica choice: one policy a file."""
