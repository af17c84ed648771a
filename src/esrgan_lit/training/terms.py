"""The terms of the generator's loss: what may be one, and be weighed."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

log = logging.getLogger(__name__)


def sees_average(term: nn.Module) -> bool:
    """Return whether a term's ``forward`` takes the running average's output as well, behind the ground truth."""
    return getattr(term, "sees_average", False)


def warn_of_own_metric(losses: nn.ModuleDict, monitor: str) -> None:
    """Warn where checkpoints are ranked by the metric that a term makes better.

    Args:
        losses: the terms by name.
        monitor: what checkpoints are ranked by, ``val/lpips`` …
    """
    for name, term in losses.items():
        metric = getattr(term, "metric", None)
        if metric is not None and metric in re.split(r"[/_]", monitor):
            log.warning(
                "stage.losses.%s trains the network for %s, by which %s ranks its checkpoints: it gets better there "
                "whatever the images look like. Rank by another, such as trainer.callbacks.best.monitor=val/%s",
                *(name, metric.upper(), monitor, "dists" if metric == "lpips" else "lpips"),
            )


def check_terms(
    losses: Mapping[str, Any],
    weights: Mapping[str, Any],
    further: Sequence[str],
    watched: Sequence[str],
    sharpened: Sequence[str],
    ema_decay: float | None,
) -> None:
    """Raise ValueError for a term that cannot be one, and for a weight of none.

    Args:
        losses: the terms by name.
        weights: of the generator's terms.
        further: names of the terms that the stage itself computes.
        watched: names of what is logged beside them.
        sharpened: names of the terms that see a sharpened ground truth.
        ema_decay: of the running average, which some terms see; None for none.
    """
    there = [name for name, term in losses.items() if term is not None]
    for name in sharpened:
        if name not in there:
            raise ValueError(
                f"stage.sharpened has {name!r}, which is no term of (output, ground truth); they are {', '.join(there)}"
            )
    for name, term in losses.items():
        if name in (*further, *watched) or hasattr(nn.ModuleDict, name):
            raise ValueError(f"stage.losses.{name}: the stage has something else of this name; choose another")
        if not isinstance(term, nn.Module | None):
            raise ValueError(f"stage.losses.{name} is {term!r}; its _target_ must make a torch.nn.Module")
        if term is not None and sees_average(term) and ema_decay is None:
            raise ValueError(f"stage.losses.{name} compares with the running average; give stage.ema_decay=0.999")
    for name, weight in weights.items():
        if name not in (*losses, *further):
            raise ValueError(
                f"stage.loss_weights.{name} weighs no term; the terms are {', '.join((*losses, *further))}. Leave it "
                f"out (~stage.loss_weights.{name}), or add the term, +stage.losses.{name}._target_=PACKAGE.CLASS"
            )
        if not isinstance(weight, int | float):
            raise ValueError(f"stage.loss_weights.{name} is {weight!r}; give a number")
