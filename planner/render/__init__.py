"""From a plan to files that run it: one module a target, listed in `targets.py`.

Every target is a pure function from a `RenderedFleet` and `RenderOptions` to `Files`; `cli.py` reads
the plan, `folder.py` writes the folder, whole or not at all. What the plan decided (counts, engine
arguments, weights) is copied, never computed again.
"""
