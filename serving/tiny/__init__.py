"""The tiny model family that ships with Motley: how it is made and how it is judged."""
