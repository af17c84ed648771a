"""``esrgan-evaluate``: compose a configuration, check everything, evaluate, write the report.

What loads PyTorch is imported once the configuration is composed.
"""

import os
import sys

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="pkg://esrgan_lit.conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Entry point of ``esrgan-evaluate``."""
    from esrgan_lit.cli.evaluate_run import prepare, run

    try:
        plan = prepare(config)
        run(config, plan)
    except (ValueError, OSError, ModuleNotFoundError, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"esrgan-evaluate: {error}")
    except KeyboardInterrupt:
        sys.exit("esrgan-evaluate: stopped; the same command goes on from here")
