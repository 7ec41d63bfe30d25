"""The performance model: how long a step of a replica takes, and what rate it holds."""
