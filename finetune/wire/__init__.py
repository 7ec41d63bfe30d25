"""One sparse vector as bytes, at a length that a formula tells beforehand."""
