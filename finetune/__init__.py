"""Federated LoRA fine-tuning on Flower."""
