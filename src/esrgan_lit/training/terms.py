"""The terms of the generator's loss: what may be one, and be weighed."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def check_terms(
    losses: Mapping[str, Any], weights: Mapping[str, Any], further: Sequence[str], watched: Sequence[str]
) -> None:
    """Raise ValueError for a term that cannot be one, and for a weight of none.

    Args:
        losses: the terms by name.
        weights: of the generator's terms.
        further: names of the terms that the stage itself computes.
        watched: names of what is logged beside them.
    """
    for name, term in losses.items():
        if name in (*further, *watched):
            raise ValueError(f"stage.losses.{name}: the stage logs something else by this name; choose another")
        if not isinstance(term, nn.Module | None):
            raise ValueError(f"stage.losses.{name} is {term!r}; its _target_ must make a torch.nn.Module")
    for name, weight in weights.items():
        if name not in (*losses, *further):
            raise ValueError(
                f"stage.loss_weights.{name} weighs no term; the terms are {', '.join((*losses, *further))}. Leave it "
                f"out (~stage.loss_weights.{name}), or add the term, +stage.losses.{name}._target_=PACKAGE.CLASS"
            )
        if not isinstance(weight, int | float):
            raise ValueError(f"stage.loss_weights.{name} is {weight!r}; give a number")
