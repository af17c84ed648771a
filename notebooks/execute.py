"""Execute notebooks and keep their small outputs: ``python notebooks/execute.py [NOTEBOOK …] [--set NAME=VALUE …]``.

``--set`` changes what the cell tagged ``parameters`` sets, for this execution only. Of the outputs, progress bars,
warnings and widgets, which mean nothing later, are left out.
"""

import argparse
import ast
import os
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
MOST_BYTES = 300_000  # of a notebook with its outputs


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Execute notebooks and keep their small outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all beside this file")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="VALUE is a Python literal")
    parser.add_argument("--output", type=Path, help="folder to write to (default: each notebook in its place)")
    options = parser.parse_args(arguments)
    for path in options.notebooks or sorted(HERE.glob("*.ipynb")):
        notebook = execute(path, options.set)
        target = options.output / path.name if options.output else path
        size = write(notebook, target)
        print(f"{target}: {size / 1000:.0f} kB")
        if size > MOST_BYTES:
            parser.exit(1, f"that is more than {MOST_BYTES / 1000:.0f} kB; draw smaller pictures\n")


def execute(path: Path, settings: Sequence[str] = ()) -> NotebookNode:
    """Run all cells in the notebook's folder and return it with its outputs.

    Args:
        path: of the notebook.
        settings: ``NAME=VALUE``, with what the parameters are to be in this execution.

    Raises:
        ValueError: for a parameter that the notebook does not have.
        nbclient.exceptions.CellExecutionError: when a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    at = next(index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    known = {name.id for name in ast.walk(ast.parse(notebook.cells[at].source)) if isinstance(name, ast.Name)}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known:
            raise ValueError(f"{path.name} has no parameter {name!r}; it has {', '.join(sorted(known))}")
        ast.literal_eval(value)
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(settings)))
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent.resolve())}},
        record_timing=False,
    ).execute()
    del notebook.cells[at + 1]
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [output for output in cell.outputs if _lasts(output)]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    return notebook


def write(notebook: NotebookNode, path: Path) -> int:
    """Write a notebook whole or not at all, and return its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        nbformat.write(notebook, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path.stat().st_size


def _lasts(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stdout"
    return "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


if __name__ == "__main__":
    main()
