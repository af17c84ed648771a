"""Low-resolution images that are given: camera pairs, or what another program degraded."""

from dataclasses import dataclass

from torch import Tensor

from esrgan_lit.degradations.pairs import Crops, Degradation, orient
from esrgan_lit.resize import Boundary


@dataclass(frozen=True)
class GivenPairs(Degradation):
    """Take the partners that ``data.low_res`` names: nothing is made.

    Args:
        scale: factor between high and low resolution.
    """

    scale: int
    boundary: Boundary = "symmetric"

    @property
    def margin(self) -> int:
        """Return 0: given pixels depend on nothing around the crop."""
        return 0

    def degrade(self, high_res: Tensor, number: int) -> Tensor:
        """Raise ValueError: there is nothing to make an image with."""
        raise ValueError("degradation=pairs makes no low resolution; give it: data.validation_low_res=FOLDER")

    def pair_up(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Return both, flipped and rotated alike."""
        assert crops.partners is not None
        levels = (part.permute(0, 3, 1, 2) for part in (crops.partners, crops.levels))
        low_res, high_res = (orient(part, crops.orientations) for part in levels)
        return low_res, high_res
