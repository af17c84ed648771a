"""What a stage is to those who do not train it: a network that enlarges, is measured, and comes from a checkpoint."""

from typing import Any, Self

import lightning as L  # noqa: N812 (Lightning's own idiom)
from torch import Tensor

from esrgan_lit.data.whole_images import ValidationImage
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.networks.generator import Generator
from esrgan_lit.training.changes import SCRATCH
from esrgan_lit.training.from_checkpoint import fill, parts_of, read_checkpoint
from esrgan_lit.training.validation import WITHOUT_EMA, Validation, as_image, enlarge


class EnlargingModule(L.LightningModule):
    """The base of a stage that Lightning can validate, test and predict with.

    Attributes:
        generator: that is trained.
        ema: its running average, or None.
        validation: what is measured.
    """

    generator: Generator
    ema: Generator | None
    validation: Validation

    @property
    def ema_generator(self) -> Generator:
        """The network that a checkpoint's reader gets: the EMA, or the generator itself where there is none."""
        return self.generator if self.ema is None else self.ema

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make the stage anew that wrote a checkpoint, from the file alone; nothing in it is executed.

        Args:
            checkpoint_path: of the checkpoint.
            map_location: device of the stage; None for the CPU.
            hparams_file: of no use here; Lightning's signature has it.
            strict: False lets weights be missing or left over.
            weights_only: of no use here: files are always read so.
            kwargs: arguments of the constructor, in place of the checkpoint's, such as ``optimizer``.

        Returns:
            The stage, with the weights, the running average and the settings of the checkpoint. The perceptual term's
            network is no part of a checkpoint: it is made when training starts.

        Raises:
            WeightsError: when the file is no checkpoint of this stage.
            ValueError: for a part of a class that was not imported yet: it is yours to import, or to give.
        """
        checkpoint = read_checkpoint(checkpoint_path, cls)
        stage = cls(**parts_of(checkpoint_path, checkpoint, cls, kwargs), start_from=SCRATCH)
        fill(stage, checkpoint, strict is not False)
        return stage if map_location is None else stage.to(map_location)

    def forward(self, low_res: Tensor) -> Tensor:
        """Enlarge (batch, 3, height, width) RGB images in [0, 1] with the network that a checkpoint's reader gets."""
        return self.ema_generator.forward(low_res)  # not compiled, or each size would be compiled anew

    def validation_step(self, batch: ValidationImage | Pair, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Measure whole images; return the EMA model's output for the image panels."""
        image = self.validation.cropped(as_image(batch))
        output = enlarge(self.ema_generator, image.pair.low_res, self.validation.strips_above)
        self.validation.update(output, image)
        if self.ema is not None:
            plain = enlarge(self.generator, image.pair.low_res, self.validation.strips_above)
            self.validation.update(plain, image, WITHOUT_EMA)
        return output

    def test_step(self, batch: ValidationImage | Pair, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Measure whole images as a validation does."""
        return self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the means, ``test/psnr_y`` …."""
        self.log_figures("test")

    def log_figures(self, kind: str) -> dict[str, float]:
        """Log the means over the images measured since the last time, as ``KIND/NAME``, and return them by name."""
        figures = self.validation.compute()
        for name, figure in figures.items():
            self.log(f"{kind}/{name}", figure, prog_bar=name in ("psnr_y", "psnr"))
        return figures

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Enlarge low-resolution images: a tensor (batch, 3, height, width), or the first part of what a loader gives.

        Returns:
            (batch, 3, scale · height, scale · width), in [0, 1].
        """
        low_res = batch if isinstance(batch, Tensor) else batch[0]
        return enlarge(self.ema_generator, low_res, self.validation.strips_above).clamp(0, 1)
