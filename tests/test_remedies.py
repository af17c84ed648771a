"""Every override that a message prints is typed: Hydra takes it, in the command that the message is about."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

import esrgan_lit

SOURCE = Path(esrgan_lit.__file__).parent
TRAIN = (
    "stage",
    "data",
    "trainer",
    "generator",
    "logger",
    "resume",
    "crop",
    "channels",
    "hydra",
    "callbacks",
    "experiment",
)
EVALUATE = ("metrics", "sweep", "sets", "hr", "lr", "weights", "images", "bicubic", "benchmark", "back_project")
VALUE = r"\[[^\]]*\]|\{[^}]*\}|[^\s,;:)'\"`\[{]+"
# An override with its value, or the path of a key without one.
OVERRIDE = re.compile(
    rf"(?<![\w./~+-])(?P<key>[~+]{{0,2}}(?:{'|'.join((*TRAIN, *EVALUATE))})(?:[./@]\w+)*)=(?P<value>{VALUE})"
)
KEY = re.compile(rf"(?<![\w./~+-])(?:~?)(?:{'|'.join((*TRAIN, *EVALUATE))})(?:\.\w+)+(?![\w/=.(]|\.\w)")
# Words that look like keys: files, and attributes in Python's own strings.
NO_KEYS = re.compile(r"\.(csv|pkl|json|yaml|pt|ckpt|png)$|^hydra\.(run|sweep)\.dir$|^hydra_")
# What a message leaves to its reader, as somebody would fill it in.
FILLED = {"FILE": "a.npz", "FOLDER": "photos", "NAME": "mine", "PACKAGE.CLASS": "torch.nn.L1Loss", "…": "b", "X": "1"}
FILES = ("niqe_parameters", "lpips_weights", "dists_weights")
# Keys that a message takes from what it is about: for each, what it may print.
NAMED = {
    "data.X=skip": ["data.small_images=skip", "data.unreadable_images=skip"],
    "data.degradation.sharpen=false": ["++data.degradation.sharpen=false"],  # of a degradation that draws
    **{
        key: [f"++{key}"]
        for one in ("first", "second")
        for key in (
            f"data.degradation.{one}.quality=null",
            f"data.degradation.{one}.gray=0",
        )
    },
    "data.degradation.scale": ["data.degradation={_target_: mine.Blurred, scale: 2}"],  # null until then
    "metrics.X=FILE": [f"metrics.{name}=FILE" for name in FILES],
    "stage.validation.options.X": [f"stage.validation.options.{name}=FILE" for name in FILES],
    "sets.X": ["+sets={mine: {hr: photos}}"],
    "sets.X.border": ["sets.RealSR.border"],
    "sets.X.hr=FOLDER": ["sets.RealSR.hr=FOLDER"],
    "sets.X.lr=FOLDER": ["sets.RealSR.lr=FOLDER"],
    "generator.X": ["generator.blocks"],
    "stage.X": ["stage.optimizer"],
    "stage.scheduler.mode=X": ["+stage.scheduler.mode=max"],
    "++stage.scheduler.mode=X": ["++stage.scheduler.mode=max"],
    "trainer.X=X": ["trainer.max_steps=4"],
    "hydra.sweeper.direction=X": ["+hydra.sweeper.direction=maximize"],  # + because it is Optuna's, not chosen here
    "hydra.sweeper.ax_config.experiment.minimize=X": ["+hydra.sweeper.ax_config.experiment.minimize=true"],  # Ax's
    "stage.losses.X": ["stage.losses.pixel"],
    "stage.losses.artifacts.window": ["+stage.losses.artifacts.window=7"],  # + because these terms are not chosen here
    "stage.losses.lpips.weights=FILE": ["+stage.losses.lpips.weights=FILE"],
    "stage.losses.dists.weights=FILE": ["+stage.losses.dists.weights=FILE"],
    "stage.loss_weights.X": ["stage.loss_weights.adversarial"],
    "~stage.loss_weights.X": ["~stage.loss_weights.adversarial"],
    "+stage.losses.X._target_=PACKAGE.CLASS": ["+stage.losses.mine._target_=torch.nn.L1Loss"],
}


def texts(path: Path) -> Iterator[str]:
    """Strings of a module but for its docstrings; what an f-string inserts is X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def remedies() -> list[str]:
    """Every override and key in a message."""
    found: dict[str, None] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for text in (text.replace("%s", "X") for text in texts(path)):
            if " " in text or OVERRIDE.fullmatch(text):  # a sentence, or what one ends with
                found |= {f"{match['key']}={match['value'].rstrip('.')}": None for match in OVERRIDE.finditer(text)}
                found |= {key: None for key in KEY.findall(text) if not NO_KEYS.search(key)}
    return [remedy for name in found for remedy in NAMED.get(name, [name])]


REMEDIES = remedies()


def fill(override: str) -> str:
    """Fill in what the message leaves to its reader."""
    override = override.replace(", …}", "}")
    for word, value in FILLED.items():
        override = re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", value, override)
    return override.replace("generator=b", "generator=srresnet16")


def test_the_remedies_are_found() -> None:
    """Or the next test would see nothing."""
    known = {"stage.options.clip_norm=1", "trainer.precision=32-true", "stage/perceptual=none", "trainer=cpu"}
    known |= {"stage.discriminator_optimizer.lr=5e-5", "stage.perceptual.weights=FILE", "hr=FOLDER"}
    known |= {"+experiment=psnr_rrdb23", "data.small_images=skip", "stage.validation.metrics=[X]"}
    assert known <= set(REMEDIES)


@pytest.mark.parametrize("remedy", REMEDIES)
def test_hydra_takes_the_remedy(remedy: str) -> None:
    key, equals, _ = remedy.partition("=")
    command = "train" if key.lstrip("~+").startswith(TRAIN) else "evaluate"
    owner = "srresnet16" if key == "generator.batch_norm" else "rrdb23"
    experiment = [] if command == "evaluate" or "experiment" in key else [f"+experiment=gan_{owner}"]
    experiment += ["+benchmark=realsr"] if key.startswith("sets.RealSR") else []
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        compose(command, [*experiment, fill(remedy) if equals or key.startswith("~") else f"{key}=1"])
