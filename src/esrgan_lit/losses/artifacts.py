"""The artifact loss of LDL (Liang et al. 2022, arXiv:2203.09195)."""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn


class ArtifactLoss(nn.Module):
    """L1 distance where artifacts are likely: L = E|M · (output − target)| (Liang et al. 2022, §3.3, Eqs. 3 to 7).

    With the residual R = Σ|target − output| over the channels, M is the variance of R in the ``window``² around a pixel
    (n − 1 in the denominator, mirrored beyond the edge), times (variance of R over the image)^(1/5), and zero where R
    is less than the residual of the generator's running average. As the released code has it, but for two: M is
    detached, since the power's slope is infinite at 0, and is computed in float32.

    Args:
        window: odd side of the window, in pixels.

    Raises:
        ValueError: for a window that is even or below 3.
    """

    sees_average = True  # the stage gives the running average's output as well

    def __init__(self, window: int = 7) -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ValueError(f"stage.losses.artifacts.window {window} is not odd and 3 or more; the authors' is 7")
        self.window = window

    def forward(self, output: Tensor, target: Tensor, average: Tensor) -> Tensor:
        """Return the loss of (batch, channels, height, width) images in [0, 1], 0-dimensional.

        Args:
            output: the generator's.
            target: the ground truth.
            average: the output of the generator's running average.
        """
        output, target, average = (
            image.float() if image.dtype in (torch.float16, torch.bfloat16) else image
            for image in (output, target, average)
        )
        return (self.map(output, target, average) * (output - target)).abs().mean()

    @torch.no_grad()
    def map(self, output: Tensor, target: Tensor, average: Tensor) -> Tensor:
        """Return M, (batch, 1, height, width), of the same images."""
        residual, of_average = ((target - image).abs().sum(1, keepdim=True) for image in (output, average))
        whole = residual.var((1, 2, 3), keepdim=True) ** 0.2
        margin = self.window // 2
        padded = F.pad(residual, (margin,) * 4, mode="reflect")
        local = padded.unfold(2, self.window, 1).unfold(3, self.window, 1).var((-1, -2))
        return torch.where(residual < of_average, 0, whole * local)
