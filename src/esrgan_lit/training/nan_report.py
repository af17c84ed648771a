"""Report why a training stopped at NaN: which term, which gradients and weights, which images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esrgan_lit.degradations.pairs import Pair


class NonFiniteLossError(RuntimeError):
    """Raised when so many steps in a row had NaN or inf in a loss or gradient that training cannot go on."""


def write_nan_report(
    folder: Path, losses: Mapping[str, Tensor], output: Tensor, network: nn.Module, pair: Pair, sources: Sequence[str]
) -> None:
    """Write ``report.json`` and the batch, ``batch.pt``.

    Args:
        folder: made where it is missing.
        losses: the raw terms that are descended, with their graphs.
        output: the generator's, (batch, 3, height, width).
        network: all that is trained.
        pair: the batch.
        sources: the file that each image of the batch comes from.
    """
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    images = zip(sources, pair.low_res, pair.high_res, output, strict=True)
    report = {
        "losses": {name: _describe_loss(loss, list(parameters.values())) for name, loss in losses.items()},
        "weights_that_are_not_finite": [name for name, value in parameters.items() if not value.isfinite().all()],
        "images": [
            {"source": source, "low_res": _range(low), "high_res": _range(high), "output": _range(made)}
            for source, low, high, made in images
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    torch.save({name: images.cpu() for name, images in pair._asdict().items()}, folder / "batch.pt")


def _describe_loss(loss: Tensor, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    broken = sum(not gradient.isfinite().all() for gradient in gradients if gradient is not None)
    return {"value": loss.item(), "gradients_that_are_not_finite": broken}


def _range(image: Tensor) -> dict[str, Any]:
    finite = image.isfinite()
    inside = image[finite]
    low, high = (inside.min().item(), inside.max().item()) if len(inside) else (None, None)
    return {"not_finite": int((~finite).sum()), "least": low, "greatest": high}
