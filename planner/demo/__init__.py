"""`motley demo`: every part of Motley on one machine, through the same commands a user types."""
