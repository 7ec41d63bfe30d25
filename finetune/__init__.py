"""Federated LoRA fine-tuning on Flower."""

import os

# Flower calls outside hosts unless these stand in the environment before its first import.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
