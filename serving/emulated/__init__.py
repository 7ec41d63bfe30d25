"""`motley serve MODEL --engine emulated`: the planner's timing behind the real endpoint, no devices.

Every answer takes as long as the performance model says, under the batching rules of
`planner.simulator`; its text means nothing.
"""
