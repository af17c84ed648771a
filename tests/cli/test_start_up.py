"""Commands read their options before anything heavy is imported: help and a mistyped option come at once."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from esrgan_lit.weights.export import TARGETS
from esrgan_lit.weights.kinds import LAYOUT_NAMES, TARGET_SUFFIXES
from esrgan_lit.weights.layouts import LAYOUTS

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
HYDRA = ("esrgan-train", "esrgan-evaluate")
# What takes a tenth of a second or more to import, and Hydra, which is the matter of two commands.
HEAVY = ("torch", "torchvision", "lightning", "torchmetrics", "kornia", "wandb", "numpy", "scipy", "matplotlib", "PIL")
ARGUMENTS = [
    *([name, "--help"] for name in SCRIPTS),
    *([name, "--mistyped"] for name in SCRIPTS),
    *(
        ["esrgan-data", command, option]
        for command in ("check", "pack", "fetch")
        for option in ("--help", "--mistyped")
    ),
    ["esrgan-train", "+experiment=psnr_rrdb23", "trainer.max_stps=3"],
    ["esrgan-train", "+experiment=psnr_rrdb32"],
    ["esrgan-train", "--cfg", "job", "+experiment=gan_rrdb23"],
    ["esrgan-evaluate", "+benchmark=set6"],
]

# One process for all: what one command has imported counts for it, and is then named for the next ones too.
PROBE = """
import contextlib, importlib, io, json, sys

calls, heavy = json.loads(sys.argv[1])
found = {}
for target, arguments in calls:
    module, _, function = target.partition(":")
    sys.argv = arguments
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            getattr(importlib.import_module(module), function)()
        except SystemExit:
            pass
    found[" ".join(arguments)] = [name for name in heavy if name in sys.modules]
print(json.dumps(found))
"""


def imported(names: list[str]) -> dict[str, list[str]]:
    """Return for each call of these commands the heavy modules that were imported once it has ended."""
    calls = [(SCRIPTS[arguments[0]], arguments) for arguments in ARGUMENTS if arguments[0] in names]
    heavy = HEAVY if set(names) & set(HYDRA) else (*HEAVY, "hydra")
    command = [sys.executable, "-c", PROBE, json.dumps([calls, heavy])]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("names", [[name for name in SCRIPTS if name not in HYDRA], HYDRA], ids=["argparse", "hydra"])
def test_help_and_a_mistyped_option_import_nothing_heavy(names: list[str]) -> None:
    found = imported(names)
    assert len(found) >= 4  # the commands did run
    assert not {call: modules for call, modules in found.items() if modules}


def test_the_package_imports_no_module_of_its_own_before_it_is_used() -> None:
    code = "import sys; before = set(sys.modules); import esrgan_lit; print(*sorted(set(sys.modules) - before))"
    after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in after if name.startswith("esrgan_lit.") or name in HEAVY] == []


def test_the_names_that_options_offer_are_those_that_there_are() -> None:
    assert tuple(LAYOUTS) == LAYOUT_NAMES
    assert tuple(TARGETS) == TARGET_SUFFIXES
