"""Rules of the house that no linter holds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("planner", "serving", "router", "finetune")
SOURCES = [
    REPOSITORY / "motley.py",
    *sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")),
]
MOST_MODULE_LINES = 400
MOST_FUNCTION_LINES = 60


def test_no_module_and_no_function_is_too_long():
    """Modules end at 400 lines and functions at 60, tests included."""
    too_long = []
    for path in SOURCES + sorted((REPOSITORY / "tests").rglob("*.py")):
        text = path.read_text()
        if len(text.splitlines()) > MOST_MODULE_LINES:
            too_long.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    too_long.append(f"{path.name}:{node.name}")
    assert not too_long


def test_the_architecture_page_names_every_module_and_no_other():
    """Each module stands in the table of its package, by its path below the package."""
    page = (REPOSITORY / "ARCHITECTURE.md").read_text()
    for package in PACKAGES:
        table = page.partition(f"| {package} | |\n")[2].partition("\n\n")[0]
        named = {word for word in table.split("`") if word.endswith(".py")}
        folder = REPOSITORY / package
        existing = {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*.py")
            if path.name != "__init__.py"
        }
        assert named == existing, package


def test_packages_never_import_the_front_door():
    """Arrows point away from motley.py only."""
    for path in SOURCES[1:]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name == "motley" or name.startswith("motley.") for name in names), path


def test_the_front_door_imports_only_the_standard_library():
    """motley.py starts without importing any package at module level."""
    tree = ast.parse((REPOSITORY / "motley.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert (module or "").partition(".")[0] in sys.stdlib_module_names


def test_no_package_marker_stands_under_tests():
    """An `__init__.py` under tests would make `import planner` return a test folder."""
    assert not list((REPOSITORY / "tests").rglob("__init__.py"))


def test_the_packages_are_ours():
    """The five top-level names come from this repository, not from somebody's wheel."""
    for name in ("motley", *PACKAGES):
        module = __import__(name)
        assert Path(str(module.__file__)).is_relative_to(REPOSITORY)


@pytest.mark.parametrize(
    "code",
    [
        "import planner.fleet.plan, planner.fleet.fleet_plan, planner.cli",
        "import planner.speculation, planner.drafting.box, planner.drafting.speculate_report",
        "import router.cli, router.config, router.server",
        "import serving.cli, serving.config, serving.tiny.cli, serving.draft_training.cli",
        "import finetune.cli, finetune.config",
        "import planner.demo.cli",
    ],
)
def test_planning_routing_and_parsing_need_no_torch(code):
    """Command lines, configurations, the planner and the router import no heavy library."""
    check = (
        f"{code}\nimport sys\n"
        "heavy = {'torch', 'vllm', 'transformers', 'peft', 'flwr'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_five_names_and_their_data(tmp_path):
    """What is built is exactly motley.py and four packages, with models and example files."""
    from zipfile import ZipFile

    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"motley.py", *PACKAGES}
    for needed in (
        "planner/demo/configs/fleet/melange-example.yaml",
        "serving/models/tiny/target/model.safetensors",
        "serving/models/tiny/draft/model.safetensors",
        "serving/models/tiny/head/model.safetensors",
        "planner/catalogues/gpus.yaml",
        "planner/catalogues/models.yaml",
        "planner/catalogues/prices.yaml",
        "planner/py.typed",
    ):
        assert needed in names


def test_every_benchmark_can_be_started():
    """Each name that `make bench` lists imports the way the runner imports it, with a `run`."""
    script = (
        "import importlib, sys\n"
        "sys.path[0] = 'tests'\n"
        "from benchmarks.run import BENCHMARKS\n"
        "for name in BENCHMARKS:\n"
        '    assert callable(importlib.import_module(f\'benchmarks.{name.replace("-", "_")}\').run)\n'
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
