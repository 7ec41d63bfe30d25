"""Sizes of random decoders that are as small as a family's attention allows."""

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
"""Fields of a transformers configuration; the family adds its own."""
