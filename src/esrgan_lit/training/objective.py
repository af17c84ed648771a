"""The one number that a run returns: what Optuna's and Ax's sweepers optimize."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esrgan_lit.overrides import as_override
from esrgan_lit.reports.runs import Run
from esrgan_lit.training.base_stage import Stage

VALUE = "optimized_metric.txt"  # in a job's .hydra folder


def check_optimized(config: DictConfig, stage: Stage, way: str | None = None) -> None:
    """Check ``optimized_metric`` before training.

    Args:
        config: of the run.
        stage: that measures it.
        way: what the sweeper does with it, ``maximize`` or ``minimize``; None where it is no optimizer.

    Raises:
        ValueError: for a metric that is not measured, and for a sweeper that would look for the worst.
    """
    name = config.optimized_metric
    if name is None:
        if way is not None:
            example = as_override("optimized_metric", "val/psnr_y")
            raise ValueError(f"optimized_metric is not set, and this sweeper is to {way} a value; give {example}")
        return
    if name.startswith("val/") and not stage.validation.sets:
        remedy = as_override("data.validation", ["FOLDER"])
        raise ValueError(f"optimized_metric={name} is not measured: there are no validation images; give {remedy}")
    if name not in (known := [*stage.validation.figures, *(f"train/{term}" for term in stage.terms)]):
        raise ValueError(f"optimized_metric={name} is not measured; give one of {', '.join(known)}")
    if "csv" not in (config.trainer.logger or {}):
        raise ValueError(f"optimized_metric={name} is read from the CSV log, which is left out; give logger=csv")
    higher = _is_higher_better(name, stage)
    better = {True: "maximize", False: "minimize", None: way}[higher]
    if way is not None and way != better:
        of_ax = f"hydra.sweeper.ax_config.experiment.minimize={str(not higher).lower()}"
        raise ValueError(
            f"this sweeper is to {way} {name}, of which {'higher' if higher else 'lower'} is better; give "
            f"hydra.sweeper.direction={better}, or of Ax {of_ax}"
        )


def optimized_value(config: DictConfig, stage: Stage) -> float | None:
    """Return the best of a run's validations by ``optimized_metric``, of a training term the last one.

    From the log of all its starts, so that a run that was interrupted returns the same; None where there is none.
    """
    name = config.optimized_metric
    if name is None:
        return None
    values = [value for _, value in Run(Path(config.output_dir)).curves.get(name, [])]
    if not values:
        return None
    higher = _is_higher_better(name, stage)
    return values[-1] if higher is None else max(values) if higher else min(values)


def way_of(sweeper: Any) -> str | None:
    """Return what a sweeper does with the values that jobs return, ``maximize`` or ``minimize``; None for nothing.

    Args:
        sweeper: Hydra's configuration of it.
    """
    direction = sweeper.get("direction")  # Optuna's
    if "ax_config" in sweeper:
        direction = "minimize" if sweeper.ax_config.experiment.minimize else "maximize"
    return direction if isinstance(direction, str) else None


def _is_higher_better(name: str, stage: Stage) -> bool | None:
    return stage.validation.metric_of(name).higher_is_better if name.startswith("val/") else None
