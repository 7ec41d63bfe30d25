"""What is asked: traces, mixes and request-size grids, and how fast answers must come."""
