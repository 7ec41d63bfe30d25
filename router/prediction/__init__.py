"""Predicts each model's loss on a prompt from hashed words: features, fitting, files, evaluation."""
