"""Imports go down only: a module knows the floors below it, never those above."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "esrgan_lit"
FLOORS = [
    {"resize", "demo", "catalogue"},
    {"networks", "losses", "metrics", "images", "download"},
    {"store", "pairs", "checkpoints", "inference", "fetch"},
    {"data", "forensics", "stages", "monitoring", "compare", "cli"},
    {"train", "doctor"},
    {"data_cli"},
]


def test_imports_go_down_only() -> None:
    floor_of = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
    files = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    assert files.keys() == floor_of.keys()
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("esrgan_lit"):
                continue
            parts = (node.module or "").split(".")
            for name in [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]:
                assert floor_of[name] < floor_of[module], f"{module} imports {name}, which is not below it"


def test_importing_the_package_loads_nothing_heavy() -> None:
    check = (
        "import sys, esrgan_lit; assert 'torch' not in sys.modules;"
        "esrgan_lit.RRDBNet; assert not {'hydra', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
