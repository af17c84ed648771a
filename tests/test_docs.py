"""The site: it builds without a warning, what is generated is complete, and nothing of it comes from elsewhere."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import pages  # noqa: E402 (they lie beside the site's pages)
import reference  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_key_of_the_configuration_has_a_meaning() -> None:
    without = {
        f"{name}: {row.key}"
        for name, (_, rows) in reference.files_of_conf().items()
        for row in rows
        if not row.meaning and row.default not in ("`null`", "`???`")
    }
    assert not without


def test_every_command_is_in_the_reference_with_every_option() -> None:
    text = reference.commands()
    for name in PROJECT["project"]["scripts"]:
        assert f"## {name}\n" in text
    for option in ("--checkpoint", "--max-memory", "--alpha", "--layout"):
        assert f"`{option}" in text or f", {option}" in text


def test_the_drawing_has_every_layer() -> None:
    drawn = re.findall(r">([a-z_]+)</text>", pages.layers())
    folders = {path.name for path in (ROOT / "src" / "esrgan_lit").iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(drawn)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    fetched = re.compile(r"""<(?:script|img|iframe)[^>]* src=["']?(https?:|//)|<link[^>]*stylesheet[^>]*(https?:|//)""")
    built_pages = [*(tmp_path / "site").rglob("*.html")]
    assert len(built_pages) > 15
    assert not [page.name for page in built_pages if fetched.search(page.read_text(encoding="utf-8"))]
    for page in ("reference/configuration.html", "reference/python.html", "gallery.html", "index.html"):
        assert (tmp_path / "site" / page).is_file()


def test_what_the_readme_tells_to_type_can_be_typed() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)
        if name == "make":
            assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        elif name in ("esrgan-train", "esrgan-evaluate"):
            kind = name.removeprefix("esrgan-")
            with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
                compose(kind, [argument for argument in arguments if not argument.startswith("hydra.")])
        else:
            parser = reference.parser_of(PROJECT["project"]["scripts"][name])
            parser.parse_intermixed_args(arguments) if parser._subparsers is None else parser.parse_args(arguments)
    assert len(lines) >= 8
    for nobody_has in ("REPOSITORY", "net.safetensors", "…"):
        assert nobody_has not in "\n".join(lines)
