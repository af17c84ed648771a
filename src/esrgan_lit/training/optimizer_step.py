"""One optimizer step of one network: its gradients summed over parts, averaged over ranks, guarded and clipped."""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, distributed
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from esrgan_lit import private_api


def keep_freed_memory() -> None:
    """Have the C library keep what is freed instead of giving it back to the system, where it is glibc's.

    The feature maps of each iteration on a CPU are otherwise mapped anew, page by page: a twentieth to a tenth of its
    time (``benchmarks/train_step.py``).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        most = 2**31 - 1
        trim_threshold, mmap_max = -1, -4  # their numbers in malloc.h
        mallopt(trim_threshold, most)
        mallopt(mmap_max, 0)


@dataclass(frozen=True)
class StepOptions:
    """How a stage takes its steps. As they are here, they change nothing of the paper's training.

    Args:
        accumulate: parts that each batch is split into, worked through one after another to need less memory. The
            gradient stays the whole batch's, but for two statistics that become the parts' own: batch normalization's,
            and the means of the relativistic loss.
        clip_norm: gradients of a longer norm are shortened to it, each network's own; None for none.
        stop_after_skipped: a step with NaN or inf in a loss or gradient is skipped; after so many in a row training
            stops with a NaN report.
        channels_last: memory layout of the networks; None for channels-last on a GPU and not on a CPU.
        compile: mode of ``torch.compile`` for the networks (``default``, ``reduce-overhead`` …); None for none.

    Raises:
        ValueError: where an option is out of its range.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    stop_after_skipped: int = 50
    channels_last: bool | None = None
    compile: str | None = None

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate {self.accumulate} is not positive; 1 works through each batch at once")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm {self.clip_norm} is not positive; give a norm, or null for no clipping")
        if self.stop_after_skipped < 1:
            raise ValueError(f"stop_after_skipped {self.stop_after_skipped} is not positive; the usual is 50")


class OptimizerStep:
    """Gathers the gradients of one network and steps it; those of other networks are neither computed nor touched.

    ``torch.autograd.grad`` instead of Lightning's ``manual_backward``, because the losses of two networks may share a
    graph, which DDP's reducer cannot follow. The ranks' gradients are averaged here instead, all in one piece.

    Args:
        stage: whose trainer knows the precision and the ranks.
        parameters: of the network to step.
        options: of the step.
    """

    def __init__(self, stage: L.LightningModule, parameters: Sequence[Tensor], options: StepOptions) -> None:
        self.stage = stage
        self.trainer = stage.trainer
        self.options = options
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]  # others are frozen
        self.gradients: list[Tensor] = []
        self.parts = 0
        self._averaging: Any = None

    def add(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Add the gradients of one part of the batch; with the last part, averaging over the ranks starts.

        Args:
            loss: of the part, 0-dimensional.
            retain_graph: keep the graph, for another network's loss that shares it.
        """
        # A loss that is not finite may have finite gradients (L1 of an infinite output); make them NaN, on every rank.
        loss = loss * torch.where(loss.detach().isfinite(), 1 / self.options.accumulate, torch.nan)
        self.scale = self._loss_scale()  # the same for all parts
        loss = self.trainer.precision_plugin.pre_backward(loss, self.stage)  # scales it under fp16
        # Of parameters that this loss does not use, zeros.
        gradients = list(
            torch.autograd.grad(
                loss, self.parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
            )
        )
        if self.gradients:
            self.gradients = [total + more for total, more in zip(self.gradients, gradients, strict=True)]
        else:
            self.gradients = gradients
        self.parts += 1
        if self.parts == self.options.accumulate and self.trainer.world_size > 1:
            flat = torch.cat([gradient.flatten() for gradient in self.gradients]) / self.trainer.world_size
            pieces = flat.split([parameter.numel() for parameter in self.parameters])
            self.gradients = [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]
            self._averaging = distributed.all_reduce(flat, async_op=True)

    def take(self, optimizer: LightningOptimizer, counted: bool) -> tuple[Tensor, Tensor]:
        """Step the network, unless a gradient is not finite.

        Args:
            optimizer: of the network.
            counted: as Lightning's global step. One optimizer's steps may be, or else every number of iterations that
                Lightning is given (max_steps, checkpoints, validation) would be cut by the number of optimizers.

        Returns:
            The norm of the gradient before clipping, and whether the step was skipped, both still on the device.
        """
        if self._averaging is not None:
            self._averaging.wait()
        scale = self._loss_scale()
        if isinstance(scale, Tensor):  # the other network's step may have changed it; it divides by what it is now
            private_api.multiply_(self.gradients, scale / self.scale)
        norm = get_total_norm(self.gradients) / scale
        skipped = ~norm.isfinite()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        if self.options.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.options.clip_norm, norm)
        decided = private_api.skip_on_device(optimizer.optimizer, skipped)
        if not decided and not isinstance(scale, Tensor) and skipped:
            self._forget()  # the step goes on without gradients, and does nothing
        if counted:
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        self._forget()
        return norm, skipped

    def _loss_scale(self) -> Tensor | float:
        """Return what fp16's scaler multiplies losses by, still on the device, for the host must not wait; else 1."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else scaler.scale(torch.ones((), device=self.stage.device))

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class BatchNormBuffers:
    """The buffers of batch normalization before an iteration, to be put back if its step is skipped.

    Args:
        buffers: running means, variances and counters.
    """

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self.buffers = buffers
        self.before = [buffer.clone() for buffer in buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before)

    @torch.no_grad()
    def restore_if(self, skipped: Tensor) -> None:
        """Put them back where ``skipped``, a boolean on the device; the host does not wait for another device."""
        if skipped.device.type == "cpu" and not skipped:
            return
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(torch.where(skipped, before, buffer))
