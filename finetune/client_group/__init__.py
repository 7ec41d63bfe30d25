"""A federated client with several devices: one process a device, steps taken together."""
