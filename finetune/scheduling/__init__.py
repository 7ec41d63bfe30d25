"""Who trains when, for how long, and which updates are merged with which weights.

Deterministic state machines: events with an explicit time in, decisions out, the whole state JSON.
"""
