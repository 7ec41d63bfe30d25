"""Sums of vectors of which the server sees nothing but the sum.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS,
doi 10.1145/3133956.3133982), figure 4 without its consistency check: each client's vector is hidden under
masks that it shares with every other client, which cancel in the sum, and under one of its own,
which the others help to take off once it is known who stayed to the end.
"""
