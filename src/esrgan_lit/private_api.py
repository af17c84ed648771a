"""Parts of PyTorch and Lightning that have no public name. Nothing else here uses any, and each has a test.

Where a new release has moved one, ``tests/test_private_api.py`` says which and what for; pyproject.toml bounds both
libraries by what was tried.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm
from torch.optim import Optimizer

if TYPE_CHECKING:  # networks use this module, and need no Lightning
    import lightning as L  # noqa: N812 (Lightning's own idiom)

__all__ = [
    "SyncBatchNorm",
    "batches_begun",
    "epoch_began",
    "multiply_",
    "set_counters",
    "set_max_steps",
    "skip_on_device",
    "stop_sigterm_broadcast",
    "without_source_lines",
]


def multiply_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply tensors in place by a factor on their device, in one kernel."""
    torch._foreach_mul_(list(tensors), factor)  # pyright: ignore[reportPrivateImportUsage]


def skip_on_device(optimizer: Optimizer, skipped: Tensor) -> bool:
    """Tell a fused optimizer whether its next step is to do nothing, without the host waiting for the answer.

    Args:
        optimizer: that steps next.
        skipped: a boolean on its device.

    Returns:
        Whether the optimizer can be told: fused ones can, as a ``GradScaler`` does.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    optimizer.found_inf = skipped.float()  # pyright: ignore[reportAttributeAccessIssue]
    return True


def without_source_lines(script: io.BytesIO) -> io.BytesIO:
    """Return a TorchScript file without where its code comes from: full paths of the machine that it was made on."""
    script.seek(0)
    reader = torch._C.PyTorchFileReader(script)
    stripped = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(stripped)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):  # it adds its own
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return stripped


def batches_begun(trainer: "L.Trainer") -> int:
    """Return how many training batches were begun, the one in work and those before a resume included."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def epoch_began(trainer: "L.Trainer") -> int:
    """Return how many training batches were begun before this epoch."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.total.ready - progress.current.ready


def stop_sigterm_broadcast(trainer: "L.Trainer") -> None:
    """Keep Lightning from asking all ranks in every iteration whether one got SIGTERM, which waits for the device."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def set_max_steps(trainer: "L.Trainer", iterations: int) -> None:
    """Change how many iterations a trainer does."""
    trainer.fit_loop.epoch_loop.max_steps = iterations


def set_counters(loop: dict[str, Any], iterations: int, validate: bool) -> None:
    """Set the counters of Lightning's fit loop, as a checkpoint keeps them, to those behind an iteration.

    Args:
        loop: the checkpoint's ``loops``, ``fit_loop``; changed in place.
        iterations: how many were done.
        validate: whether the validation behind the last of them is still to be done.
    """

    def count(name: str, ready: int, processed: int, completed: int) -> None:
        for period in ("total", "current"):
            counters = {"ready": ready, "started": ready, "processed": processed, "completed": completed}
            loop[name][period] = {key: counters[key] for key in loop[name][period]}
        if "is_last_batch" in loop[name]:
            loop[name]["is_last_batch"] = False

    count("epoch_progress", 1, 0, 0)  # all of the training is one epoch: begun, not ended
    count("epoch_loop.batch_progress", iterations, iterations, iterations - 1)  # as after an iteration's last hook
    count("epoch_loop.val_loop.batch_progress", int(validate), 0, 0)
    # Counted once more when the loop starts, and once more behind a validation.
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = iterations - 1 - int(validate)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context that computes with a tensor's own precision, whatever autocast says around it.

    ``torch.autocast`` raises for the meta device, on which an iteration is tried before a training.
    """
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)
