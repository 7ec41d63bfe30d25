"""Ways to make one adapter of many, one a file: pure functions over the factors of one module."""
