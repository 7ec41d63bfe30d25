"""Trains a Dovetail head for a target: `motley serve train-draft`."""
