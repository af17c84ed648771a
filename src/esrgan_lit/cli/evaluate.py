"""``esrgan-evaluate``: compose a configuration, check everything, evaluate, write the report.

What loads PyTorch is imported once the configuration is composed.
"""

import os
import sys

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from esrgan_lit.cli.check_overrides import check_overrides


@hydra.main(version_base="1.3", config_path="pkg://esrgan_lit.conf", config_name="evaluate")
def _compose_and_run(config: DictConfig) -> None:
    from esrgan_lit.cli.evaluate_run import prepare, run

    try:
        plan = prepare(config)
        run(config, plan)
    except (ValueError, OSError, ModuleNotFoundError, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        said = str(error).replace("--engine ", "engine=")  # as esrgan-upscale has it
        sys.exit(f"esrgan-evaluate: {said}")
    except KeyboardInterrupt:
        sys.exit("esrgan-evaluate: stopped; the same command goes on from here")


def main() -> None:
    """Entry point of ``esrgan-evaluate``."""
    try:
        check_overrides(sys.argv[1:], "evaluate")
    except ValueError as error:
        sys.exit(f"esrgan-evaluate: {error}")
    _compose_and_run()
