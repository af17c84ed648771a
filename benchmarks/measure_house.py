"""Measure how a package is laid out: ``python benchmarks/measure_house.py [PACKAGE_FOLDER …]``."""

import argparse
import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

HERE = Path(__file__).parents[1] / "src" / "esrgan_lit"
LONG = 300
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    """Print a table, one column a package."""
    parser = argparse.ArgumentParser(description="Measure how a package is laid out.")
    parser.add_argument("packages", nargs="*", type=Path, default=[HERE], help="folders; default: this package")
    packages = parser.parse_args().packages
    columns = [measure(package) for package in packages]
    print("|", *packages, sep=" | ")
    print("|---" * (len(packages) + 1), "|", sep="")
    for name in columns[0]:
        print(f"| {name}", *(column[name] for column in columns), sep=" | ")


def measure(package: Path) -> dict[str, str]:
    """Return the measures of all Python files in a folder, by name."""
    files = [path for path in sorted(package.rglob("*.py")) if path.read_text(encoding="utf-8").strip()]
    trees = {module_name(path, package): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = [(node.end_lineno or 0) - node.lineno + 1 for node in nodes if isinstance(node, Function)]
    middle, most, longest = median(functions), quantiles(functions, n=10)[-1], max(functions)
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    top = [node for tree in trees.values() for node in tree.body if isinstance(node, Function | ast.ClassDef)]
    public = [node for node in top if not node.name.startswith("_")]
    arrows = {(name, other) for name, tree in trees.items() for other in imported(tree, trees) if other != name}
    comments = sum(count_comments(path) for path in files)
    return {
        "Python lines": f"{sum(lines):,}",
        "files": f"{len(files)}",
        "files in the package's own folder": f"{len([path for path in files if path.parent == package])}",
        "file median / max lines": f"{median(lines):.0f} / {max(lines)}",
        f"files over {LONG} lines": f"{sum(count > LONG for count in lines)}",
        "function median / p90 / max lines": f"{middle:.0f} / {most:.0f} / {longest}",
        "comments per 100 lines": f"{100 * comments / sum(lines):.1f}",
        "longest chain of own classes": f"{max(chain(name, classes) for name in classes)}",
        "imports from module to module": f"{len(arrows)}",
        "public functions and classes": f"{len(public)}",
    }


def module_name(path: Path, package: Path) -> str:
    """Return the dotted name of a file's module."""
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module, modules: dict[str, ast.Module]) -> Iterator[str]:
    """Yield the package's modules that a module imports, also where a function does it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for each in node.names:
                whole = f"{node.module}.{each.name}"
                found = whole if whole in modules else node.module
                if found in modules:
                    yield found


def chain(name: str, classes: dict[str, ast.ClassDef]) -> int:
    """Return how many of the package's classes stand above each other, from this one up."""
    bases = [getattr(base, "id", getattr(base, "attr", "")) for base in classes[name].bases]
    return 1 + max((chain(base, classes) for base in bases if base in classes and base != name), default=0)


def count_comments(path: Path) -> int:
    """Return the number of comments in a file; docstrings are none."""
    with path.open("rb") as file:
        return sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(file.readline))


if __name__ == "__main__":
    main()
