"""What the server believes, what it bounds, and what it must not see: pure functions."""
