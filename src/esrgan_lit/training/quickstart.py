"""Training from Python, and the two networks of the quickstart for who has none yet."""

import logging
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

SHORT = (600, 200)
"""Iterations of both stages where the quickstart's own are too many: about a minute on two cores."""

log = logging.getLogger(__name__)


def run(folder: str | Path, *overrides: str) -> Path:
    """Train as ``esrgan-train OVERRIDES hydra.run.dir=FOLDER resume=auto`` does, in this process.

    A finished run is not done again, an interrupted one is resumed.

    Args:
        folder: of the run.
        overrides: as on the command line, such as ``+experiment=quickstart_psnr``. A path with special characters
            stands in quotes: ``data.train=['my photos (1)']``.

    Returns:
        Path of its last checkpoint.

    Raises:
        ValueError: when the folder holds a run of other settings, naming one.
    """
    # Here, because what training needs takes seconds to import, and who has networks does not train.
    from esrgan_lit.training.changes import ABSENT, differences, first_fixed
    from esrgan_lit.training.checkpointing import find_checkpoint, read_checkpoint
    from esrgan_lit.training.resume import AUTO
    from esrgan_lit.training.trainer import normalize, train

    folder = Path(folder)
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        config = compose("train", list(overrides))
    config.output_dir = str(folder)
    normalize(config)  # as a run's checkpoints have it
    found = find_checkpoint(folder / "checkpoints")
    if found is not None:
        config.resume = AUTO
        checkpoint, ours = read_checkpoint(found), cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        pairs = differences(checkpoint.get("config") or {}, ours)
        others = (
            f"{key} was {old} and is {new}"
            for key, (old, new) in pairs.items()
            if (old, new) not in ((None, ABSENT), (ABSENT, None))
        )
        if fault := first_fixed(checkpoint, ours) or next(others, None):
            raise ValueError(f"{folder} holds a run of other settings ({fault}); take another folder, or remove it")
        if checkpoint["global_step"] >= config.trainer.max_steps:
            return found
    return train(config)


def networks(runs: str | Path = "runs", iterations: tuple[int, int] = SHORT) -> tuple[Path, Path]:
    """Checkpoints of a PSNR stage and of the GAN stage after it: those of ``make quickstart`` where it was run.

    Where it was not, the same is trained for fewer iterations on scikit-image's photographs, once.

    Args:
        runs: folder of all runs: ``quickstart`` is looked for there, or ``quickstart_short`` made.
        iterations: of the PSNR stage and of the GAN stage, where they are trained.
    """
    whole, short = Path(runs) / "quickstart", Path(runs) / "quickstart_short"
    found = [whole / stage / "checkpoints" / "last.ckpt" for stage in ("psnr", "gan")]
    if all(path.is_file() for path in found):
        return found[0], found[1]
    log.warning("no networks of `make quickstart` in %s: two are trained in %s, with fewer iterations", whole, short)
    intervals = [f"trainer.val_check_interval={count}" for count in iterations]
    steps = [f"trainer.max_steps={count}" for count in iterations]
    psnr = run(short / "psnr", "+experiment=quickstart_psnr", steps[0], intervals[0])
    gan = run(short / "gan", "+experiment=quickstart_gan", f"stage.start_from='{psnr}'", steps[1], intervals[1])
    return psnr, gan
