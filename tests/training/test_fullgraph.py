"""Both stages' forward and losses are one graph to ``torch.compile``: nothing of an iteration falls back to Python."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from esrgan_lit import Discriminator, GanStage, PerceptualLoss, PsnrStage, RRDBNet
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.training.base_stage import Stage


def make_stage(name: str) -> Stage:
    torch.manual_seed(0)
    generator = RRDBNet(blocks=1, width=8, growth=4)
    if name == "PSNR":
        return PsnrStage(generator)
    discriminator = Discriminator(width=4)
    perceptual = PerceptualLoss("conv1_2", weights="untrained")
    return GanStage(generator, discriminator, perceptual, start_from="scratch")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PSNR", "GAN"])
def test_an_iteration_is_one_graph(name: str) -> None:
    stage = make_stage(name)
    cast(Any, stage)._trainer = SimpleNamespace(world_size=1)

    def losses(low_res: Tensor, high_res: Tensor) -> list[Tensor]:
        terms = stage.raw_terms(stage.generator(low_res), Pair(low_res, high_res))
        return [stage.weighted_sum(terms), *(terms[each] for each in ["discriminator"] if each in terms)]

    def gradients(made: list[Tensor]) -> list[Tensor]:
        pairs = zip(made, stage.networks(), strict=True)
        return [
            gradient
            for loss, network in pairs
            for gradient in torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        ]

    pair = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 128, 128)
    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")  # raises at the first break
    torch.testing.assert_close(gradients(compiled(*pair)), gradients(losses(*pair)), rtol=1e-3, atol=1e-6)
