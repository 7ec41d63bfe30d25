"""Render the tests' plans for every target below a folder: `python tests/rendered/render.py FOLDER`.

With `--golden` the folder is `tests/golden/rendered`, whose files a test compares: read the difference
before you commit it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fleet_plans import small_plan  # noqa: E402
from placed_plans import placed_plan  # noqa: E402

from planner.render.folder import write_folder  # noqa: E402
from planner.render.options import Files, RenderOptions  # noqa: E402
from planner.render.targets import (  # noqa: E402
    TARGETS,
    TRAINING_TARGETS,
    TargetName,
    render,
    render_training,
)

GOLDEN = ROOT / "tests" / "golden" / "rendered"


def rendered(target: TargetName) -> Files:
    """Return the files of the tests' plan, on ports from 9000."""
    options = RenderOptions(
        motley_command=("motley",), ports=lambda number: tuple(range(9000, 9000 + number))
    )
    return render(small_plan(), target, options)


if __name__ == "__main__":
    folder = GOLDEN if sys.argv[1] == "--golden" else Path(sys.argv[1])
    for name in TARGETS:
        write_folder(folder / name, rendered(name), force=True)
    for training_name in TRAINING_TARGETS:
        files = render_training(placed_plan(), training_name)
        write_folder(folder / training_name, files, force=True)
