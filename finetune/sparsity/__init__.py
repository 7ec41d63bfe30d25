"""Sparse exchange of an adapter: what is sent down and up, and what each end remembers."""
