"""Real-ESRGAN's pairs as its public code draws and makes them, defects included, and its pool of pairs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (PyTorch's own idiom)

from esrgan_lit.degradations.chain import Mode, resize_to
from esrgan_lit.degradations.jpeg import compress_as_diffjpeg
from esrgan_lit.degradations.pairs import Crops, orient
from esrgan_lit.degradations.real_esrgan import Noise, RealEsrganDegradation, RealEsrganSteps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParitySteps(RealEsrganSteps):
    """What is done to one image.

    Attributes:
        batch_seed: of the gray noise, which the whole batch shares.
    """

    batch_seed: int


class PairPool:
    """Pairs that wait for a later batch, so that what a batch shares is mixed with others.

    Until the pool is full, a fresh batch is used and goes into it, too; from then on the pool is shuffled, its first
    pairs are used, and the fresh ones take their places. All of it is in :meth:`state_dict`. The batch given last is
    kept: asked for it anew, as behind a checkpoint that was written between two iterations, the pool gives it again.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def exchange(self, fresh: Sequence[Tensor], numbers: Sequence[int], size: int, seed: int) -> list[Tensor]:
        """Return the batch to train on.

        Args:
            fresh: uint8 low and high resolution of a batch, (batch, channels, height, width).
            numbers: of its samples.
            size: of the pool, rounded up to whole batches.
            seed: of the shuffling, which also depends on the first sample's number.
        """
        given = self.state.get("given_to")
        if given == list(numbers):
            return [part.to(fresh[0].device) for part in self.state["given"]]
        sizes = [[part.shape[1:] for part in parts] for parts in (self.state.get("pairs", ()), fresh)]
        if not given or given[0] > numbers[0] or sizes[0] != sizes[1]:  # a training that begins, or has other crops
            if given:
                log.warning("the pool of pairs begins anew at sample %d: it was of others", numbers[0])
            self.state = {"samples": torch.empty(0, dtype=torch.long), "pairs": [part[:0] for part in fresh]}
        samples, parts = torch.tensor(numbers), [part.to(fresh[0].device) for part in self.state["pairs"]]
        count, waiting = len(numbers), self.state["samples"]
        if len(waiting) < size:
            state = {"samples": torch.cat((waiting, samples)), "given_samples": list(numbers), "given": list(fresh)}
            self.state = state | {"pairs": [torch.cat(both) for both in zip(parts, fresh, strict=True)]}
        else:
            order = torch.from_numpy(np.random.default_rng((seed, numbers[0], 3)).permutation(len(waiting)))
            shuffled = [part[order.to(part.device)] for part in (waiting, *parts)]
            chosen, *given = (part[:count].clone() for part in shuffled)
            for part, new in zip(shuffled, (samples, *fresh), strict=True):
                part[:count] = new
            state = {"given_samples": chosen.tolist(), "given": given}
            self.state = state | {"samples": shuffled[0], "pairs": shuffled[1:]}
        self.state["given_to"] = list(numbers)
        return self.state["given"]


@dataclass(frozen=True)
class RealEsrganParity(RealEsrganDegradation):
    """Real-ESRGAN's pairs as the public code makes them: for comparisons with models that were trained by it.

    Its order of work and what it does otherwise than :class:`RealEsrganDegradation`:

    1. JPEG is DiffJPEG's: the luma table is transposed against the transform, tables are not rounded or kept within
       1 … 255, sides grow to multiples of 16 with black.
    2. Gray Gaussian noise is one field, which all images of a batch share.
    3. Poisson noise counts each image's levels, by which flat images get more noise (a rule that the other has, too).
    4. Factors, modes, the kind of noise, whether there is a second blur, the last order and the crop's place are drawn
       once for a batch. Kernels, amounts of noise, gray or not, and JPEG's qualities are drawn for each image.
    5. Not reproduced, since a run could not be resumed then: worker processes whose seeds repeat at each epoch, and
       checkpoints without any random state. Draws are a pure function of the seed and the batch's first sample.
    6. Kernels have 7 to 21 taps whatever is configured, so that anything else is refused; nothing is antialiased.
    7. Images are clamped before each JPEG (by the other, too).

    Besides: crops are flipped and not rotated; the first resizing keeps its factor where the size is rounded down, by
    which pixels shift; and pairs go through a pool. Which photographs and where patches lie is drawn as always.

    Args:
        pool: pairs that wait in the pool; 0 for none.
    """

    pool: int = 180
    waiting: PairPool = field(default_factory=PairPool, init=False, repr=False, compare=False)
    stateful: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool < 0:
            raise ValueError(f"pool {self.pool} is negative; the public code has 180, and 0 is none")
        for name, kernels in (("first.", self.first.kernels), ("second.", self.second.kernels), ("", self.kernels)):
            if tuple(kernels.sizes) != (7, 21):
                raise ValueError(
                    f"{name}kernels.sizes {list(kernels.sizes)} has no effect in the public code, whose kernels have 7 "
                    "to 21 taps; give [7, 21], or take degradation=realesrgan"
                )
        for name, each in (("first", self.first), ("second", self.second)):
            if each.quality is not None and each.quality[1] >= 100:
                raise ValueError(
                    f"{name}.quality {list(each.quality)} ends at 100, where the public code divides by 0; "
                    "the usual is [30, 95]"
                )

    def draw(self, random: np.random.Generator, batch: np.random.Generator | None = None) -> ParitySteps:
        """Draw what is done to one image, see :class:`RealEsrganDegradation`."""
        steps = super().draw(random, batch)
        return ParitySteps(**vars(steps), batch_seed=int((batch or random).integers(2**62)))

    def pair_up(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Return low- and high-resolution levels of a batch, through the pool."""
        turned = orient(crops.levels.permute(0, 3, 1, 2), [4 * (each >= 4) for each in crops.orientations])
        side = turned.shape[-1] - 2 * self.margin

        def shared(number: int = 2) -> np.random.Generator:  # for each image anew: the same draws
            return np.random.default_rng((self.seed, crops.numbers[0], number))

        steps = [self.draw(self.generator_of(number), shared()) for number in crops.numbers]
        low_res = [self.to_levels(levels, each) for levels, each in zip(turned, steps, strict=True)]
        top, left = (int(place) for place in shared(4).integers(2 * self.margin // self.scale + 1, size=2))
        small = torch.stack(low_res)[..., top : top + side // self.scale, left : left + side // self.scale]
        top, left = top * self.scale, left * self.scale
        fresh = small, turned[..., top : top + side, left : left + side]
        if not self.pool:
            return fresh
        low, high = self.waiting.exchange(fresh, crops.numbers, self.pool, self.seed)
        return low, high

    def resize_first(self, image: Tensor, factor: float, mode: Mode) -> Tensor:
        """Resize by the factor itself: where the size is rounded down, the image's end is cut off instead."""
        if factor * min(image.shape[-2:]) < 1:
            return resize_to(image, 1, 1, mode)
        return F.interpolate(image[None], scale_factor=factor, mode=mode)[0]

    def add_noise(
        self, image: Tensor, noise: Noise, steps: RealEsrganSteps, place: int, generator: torch.Generator
    ) -> Tensor:
        """Add noise; that of gray Gaussian fields comes from the batch's generator."""
        assert isinstance(steps, ParitySteps)
        if noise.gray and noise.kind == "gaussian":
            generator = torch.Generator(image.device).manual_seed(steps.batch_seed + place)
        return super().add_noise(image, noise, steps, place, generator)

    def compress(self, image: Tensor, quality: float | None) -> Tensor:
        """Compress as DiffJPEG does."""
        return image if quality is None else compress_as_diffjpeg(image.clamp(0, 1), quality)

    def samples_given(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return the samples that the last batch came from, out of the pool."""
        return self.waiting.state.get("given_samples", numbers) if self.pool else numbers

    def state_dict(self) -> dict[str, Any]:
        """Return the pool."""
        state = self.waiting.state
        return state | {name: [part.cpu() for part in state[name]] for name in ("pairs", "given") if name in state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a pool over."""
        self.waiting.state = dict(state)
