"""Stages of a model on islands of devices: the placement of a training plan, after Holmes.

`place.py` searches degrees and blocks of stages; `pipeline_costs.py` says what a stage costs,
`makespan.py` how long a step then takes, and `pipeline_simulator.py` plays the same step event by
event, knowing nothing of the other's arithmetic.
"""
