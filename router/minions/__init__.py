"""A small local model reads, a large remote one directs: two protocols offered as models."""
