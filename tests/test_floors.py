"""Imports go down only: a module knows the floors below it, never those above."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "esrgan_lit"
FLOORS = [
    {"files"},
    {"resize", "hub", "plots", "pages", "runs", "data.demo", "data.catalogue", "evaluation.published"},
    {"networks", "losses", "metrics", "pictures", "summary", "data.images", "data.download", "winograd"},
    {"data.store", "data.pairs", "data.fetch", "layouts", "pretrained", "engines", "niqe"},
    {"inference", "optimization", "interruption", "scores"},
    {"weight_files", "data.module", "data.forensics", "diagnosis", "monitoring", "validation"},
    {"checkpoints", "data.doctor"},
    {"stages", "compare", "export", "report", "evaluation.testsets", "evaluation.methods"},
    {"sweep"},
    {"train", "commands.weights", "commands.upscale", "evaluation.run"},
    {"data.cli", "evaluation.report"},
    {"evaluation.page"},
    {"evaluation.app"},
]


def test_imports_go_down_only() -> None:
    floor_of = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
    files = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    files = {module: path for module, path in files.items() if not module.endswith("__init__")}
    assert files.keys() == floor_of.keys()
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("esrgan_lit"):
                continue
            named = (node.module or "").removeprefix("esrgan_lit").removeprefix(".")
            # `from esrgan_lit.data import store` names the module last
            imported = [named] if named in floor_of else [f"{named}.{alias.name}".lstrip(".") for alias in node.names]
            for name in imported:
                assert floor_of[name] < floor_of[module], f"{module} imports {name}, which is not below it"


def test_importing_the_package_loads_nothing_heavy() -> None:
    check = (
        "import sys, esrgan_lit; assert 'torch' not in sys.modules;"
        "esrgan_lit.RRDBNet; assert not {'hydra', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
