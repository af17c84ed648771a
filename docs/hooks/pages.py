"""Make the site's other pages: the gallery, the examples, the drawing of the layers, what lies beside docs/."""

import ast
import base64
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {
        "contributing.md": _moved((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "examples.md": examples(),
        "layers.svg": layers(),
        **gallery(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to files beside docs/ to their pages, and put the drawing of the layers where it belongs."""
    markdown = re.sub(r"<!-- the drawing of the layers .*-->", "![The layers](layers.svg)", markdown)
    markdown = re.sub(r"\(\.\./notebooks/(\w+)\.ipynb\)", r"(gallery.md#\1)", markdown)
    return re.sub(r"\(\.\./(CONTRIBUTING|CHANGELOG)\.md", lambda found: f"({found[1].lower()}.md", markdown)


def _moved(text: str) -> str:
    """Return a text of the checkout's root with its links as they are in docs/."""
    return re.sub(r"\((?:docs/)?([\w/]+\.md)", r"(\1", text)


def gallery() -> dict[str, str | bytes]:
    """Return the gallery's page and the pictures that the notebooks hold, by path."""
    lines = [
        "# Gallery",
        "",
        "What the notebooks draw, as they are kept in `notebooks/`. `make notebooks` draws it anew.",
        "",
    ]
    pictures: dict[str, str | bytes] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).partition("\n")
        lines += [f"## {title[0].lstrip('# ')} {{ #{path.stem} }}", "", f"`notebooks/{path.name}`", ""]
        text = ""
        for cell in cells[1:]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"]).strip()
                continue
            for kind, data in _pictures(cell):
                name = f"gallery/{path.stem}_{len(pictures)}.{kind}"
                pictures[name] = data
                heading = re.match(r"#+ (.*)", text)
                words = heading[1] if heading else title[0].lstrip("# ")
                lines += [f"![{words}]({name})", "", f"*{words}*", ""]
    return {"gallery.md": "\n".join(lines), **pictures}


def _pictures(cell: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    for output in cell.get("outputs", ()):
        for kind in ("jpeg", "png"):
            if data := output.get("data", {}).get(f"image/{kind}"):
                yield kind, base64.b64decode("".join(data))


def examples() -> str:
    """Return the programs of examples/, each behind its first lines."""
    lines = ["# Three small programs", "", "Each is complete. `python examples/NAME.py --help` has its options.", ""]
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines += [f"## {path.name}", "", ast.get_docstring(ast.parse(text)) or "", "", "```python", text, "```", ""]
    return (
        "\n".join(lines).replace("``python examples", "`python examples").replace("]``", "]`").replace(".py``", ".py`")
    )


def layers() -> str:
    """Return a drawing of the layers that import-linter holds, the commands on top."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = project["tool"]["importlinter"]["contracts"][0]["layers"]
    rows = [[name.strip() for name in row.split("|")] for row in rows]
    height, width, gap = 34, 680, 8
    parts = []
    for index, names in enumerate(rows):
        side = (width - gap * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            x, y = place * (side + gap), index * (height + gap)
            parts.append(
                f'<rect x="{x:.0f}" y="{y}" width="{side:.0f}" height="{height}" rx="5" fill="#00796b"/>'
                f'<text x="{x + side / 2:.0f}" y="{y + 22}" fill="#fff" '
                f'font-family="sans-serif" font-size="14" text-anchor="middle">{name}</text>'
            )
    total = len(rows) * (height + gap)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" role="img">{"".join(parts)}</svg>'
