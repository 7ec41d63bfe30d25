"""Rounds of training in which the server sees the sum of the updates only, over Flower's messages.

One round is four exchanges: `train.keys` sends the adapter, and the client trains before it answers
with its keys; `train.shares`, `train.masked` and `train.revealed` carry the protocol's messages.
"""
