"""Training plans: sequence-parallel groups per batch, and the placement of stages on islands."""
