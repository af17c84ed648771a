"""Pairs per second of each random degradation beside a straight PyTorch transcription of the public order of work.

    python benchmarks/degrade.py [--rounds 5] [--device cpu] [--train-step 1.2]

Patches of 400 × 400 become pairs of 256 and 64 pixels, in batches of 12. The rival does what Real-ESRGAN's training
does with a batch (Wang et al. 2021, released code): an unsharp mask by a dense 51 × 51 convolution, blurs of all
samples by one grouped 21 × 21 convolution, one draw of factor, mode and noise for the batch, Poisson noise by counting
each sample's levels in a loop, and JPEG by an 8 × 8 × 8 × 8 tensor product. Both take turns on the same threads; the
rate is the median over rounds. With --train-step SECONDS, what an iteration takes without its pairs, their share of an
iteration is told.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (PyTorch's own idiom)

from esrgan_lit.degradations.blur import BlurKernels, Kernel
from esrgan_lit.degradations.bsrgan import BsrganDegradation
from esrgan_lit.degradations.pairs import Crops, make_pairs
from esrgan_lit.degradations.parity import RealEsrganParity
from esrgan_lit.degradations.real_esrgan import DegradationPass, RealEsrganDegradation

PATCH, CROP, SCALE, BATCH = 400, 256, 4, 12


class Rival:
    """The public order of work, a batch at a time."""

    def __init__(self, device: str) -> None:
        self.random = np.random.default_rng(0)
        self.device = device
        sigma = 0.3 * (25 - 1) + 0.8
        self.soft = torch.from_numpy(Kernel("gaussian", 51, (sigma, sigma)).values()).float().to(device)
        x, u = np.arange(8)[:, None], np.arange(8)[None, :]
        cosine = np.cos((2 * x + 1) * u * np.pi / 16)
        scale = np.where(np.arange(8) == 0, 1 / np.sqrt(2), 1) / 2
        basis = np.einsum("xu,yv,u,v->xyuv", cosine, cosine, scale, scale)
        self.forward = torch.from_numpy(basis).float().to(device)
        self.table = torch.full((8, 8), 20.0, device=device)

    def __call__(self, high_res: Tensor) -> Tensor:
        """Degrade (batch, 3, height, width) in [0, 1]."""
        image = self.sharpen(high_res)
        image = self.blur(image, BlurKernels())
        image = self.resize(image, float(self.random.uniform(0.15, 1.5)))
        image = self.jpeg(self.noise(image))
        if self.random.random() < 0.8:
            image = self.blur(image, BlurKernels(sigma=(0.2, 1.5)))
        image = self.resize(image, PATCH / SCALE / image.shape[-1] * float(self.random.uniform(0.3, 1.2)))
        image = self.noise(image)
        image = F.interpolate(image, (PATCH // SCALE, PATCH // SCALE), mode="bicubic")
        image = self.jpeg(self.blur(image, BlurKernels()).clamp(0, 1))
        return (image.clamp(0, 1) * 255).round() / 255

    def sharpen(self, image: Tensor) -> Tensor:
        """Mask and residual by two dense convolutions."""

        def soften(image: Tensor) -> Tensor:
            padded = F.pad(image, (25,) * 4, mode="reflect").flatten(0, 1)[:, None]
            return F.conv2d(padded, self.soft[None, None]).view(image.shape)

        residual = image - soften(image)
        mask = soften((residual.abs() * 255 > 10).float())
        return mask * (image + 0.5 * residual).clamp(0, 1) + (1 - mask) * image

    def blur(self, image: Tensor, kernels: BlurKernels) -> Tensor:
        """Convolve each sample with a kernel of its own, zero-padded to 21 × 21."""
        count, channels, height, width = image.shape
        weights = np.zeros((count, 21, 21), np.float32)
        for weight in weights:
            values = kernels.draw(self.random).values()
            margin = (21 - len(values)) // 2
            weight[margin : 21 - margin, margin : 21 - margin] = values
        mode = "reflect" if min(height, width) > 10 else "replicate"
        padded = F.pad(image, (10,) * 4, mode=mode).view(1, count * channels, height + 20, width + 20)
        grouped = torch.from_numpy(weights).to(self.device).repeat_interleave(channels, 0)[:, None]
        return F.conv2d(padded, grouped, groups=count * channels).view(image.shape)

    def resize(self, image: Tensor, factor: float) -> Tensor:
        """Resize the batch by one factor."""
        return F.interpolate(image, scale_factor=factor, mode=["area", "bilinear", "bicubic"][self.random.integers(3)])

    def noise(self, image: Tensor) -> Tensor:
        """Add one kind of noise to the batch, in color and in gray."""
        image = image.clamp(0, 1)
        if self.random.random() < 0.5:
            sigma = torch.rand(len(image), 1, 1, 1, device=self.device) * 29 / 255
            gray = torch.randn_like(image[:, :1]) * sigma
            return (image + torch.where(sigma > 0.06, gray, torch.randn_like(image) * sigma)).clamp(0, 1)
        noises = []
        for seen in (image, image.mean(1, keepdim=True)):
            levels = (seen * 255).round()
            counts = [2 ** np.ceil(np.log2(len(torch.unique(each)))) for each in levels]
            photons = torch.tensor(counts, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)
            noises.append(torch.poisson(seen * photons) / photons - seen)
        return (image + noises[0] * 0.5 + noises[1] * 0.5).clamp(0, 1)

    def jpeg(self, image: Tensor) -> Tensor:
        """Compress the batch: blocks by a tensor product, chroma at half the resolution."""
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % 16, 0, -height % 16)) * 255
        luma, chroma = padded[:, :1], F.avg_pool2d(padded[:, 1:], 2)
        luma, chroma = self.blocks(luma), self.blocks(chroma)
        back = torch.cat((luma, chroma.repeat_interleave(2, -1).repeat_interleave(2, -2)), 1)
        return back[..., :height, :width].clamp(0, 255) / 255

    def blocks(self, planes: Tensor) -> Tensor:
        """Transform, quantize and transform back."""
        shape = planes.shape
        tiles = planes.view(*shape[:2], shape[2] // 8, 8, shape[3] // 8, 8).transpose(3, 4) - 128
        kept = (torch.tensordot(tiles, self.forward, 2) / self.table).round() * self.table
        tiles = torch.tensordot(kept, self.forward.permute(2, 3, 0, 1), 2) + 128
        return tiles.transpose(3, 4).reshape(shape)


def main() -> None:
    """Take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-step", type=float, help="seconds of an iteration without the pairs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random = np.random.default_rng(0)
    smooth = torch.from_numpy(random.random((BATCH, 3, 50, 50), np.float32)).to(options.device)
    high_res = F.interpolate(smooth, (PATCH, PATCH), mode="bicubic").clamp(0, 1)
    levels = (high_res * 255).round().byte().permute(0, 2, 3, 1).contiguous()
    light = DegradationPass(
        BlurKernels((5, 17), sinc=0),
        factor=(0.4, 1.5),
        noise={"gaussian": 0, "poisson": 0, "none": 1},
        quality=(75, 95),
    )
    rival = Rival(options.device)
    ours = {
        "realesrgan": RealEsrganDegradation(),
        "realesrgan_parity": RealEsrganParity(),
        "bsrgan": BsrganDegradation(),
        "light": RealEsrganDegradation(first=light, second=light, sinc=0),
    }
    works: dict[str, Callable[[int], object]] = {"public order of work": lambda _: rival(high_res)}
    for name, degradation in ours.items():

        def pairs(number: int, degradation: RealEsrganDegradation | BsrganDegradation = degradation) -> object:
            numbers = tuple(range(number * BATCH, (number + 1) * BATCH))
            return make_pairs(Crops(levels, (0,) * BATCH, numbers), degradation)

        works[name] = pairs
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with torch.no_grad():
        for number in range(options.rounds + 1):  # the first warms up
            for name, work in works.items():
                start = time.perf_counter()
                work(number)
                if options.device != "cpu":
                    torch.accelerator.synchronize()
                if number:
                    seconds[name].append(time.perf_counter() - start)
    base = BATCH / statistics.median(seconds["public order of work"])
    print(f"{options.device}, {options.threads} threads, torch {torch.__version__}, {options.rounds} rounds")
    print(f"{'':22}  pairs/s   times" + ("   share of an iteration" if options.train_step else ""))
    for name, measured in seconds.items():
        median = statistics.median(measured)
        share = f"   {median / (median + options.train_step):6.1%}" if options.train_step else ""
        print(f"{name:22} {BATCH / median:8.1f} {BATCH / median / base:7.2f}{share}")


if __name__ == "__main__":
    main()
