"""Parts of PyTorch and Lightning that have no public name are still where private_api.py takes them."""

import inspect
import io
import warnings
import zipfile
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from esrgan_lit import private_api

SOURCE = Path(private_api.__file__)


def test_optimizers_take_found_inf() -> None:
    """What a fused Adam does in a step that is to be skipped, and what another cannot."""
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    fused, plain = torch.optim.Adam([weight], fused=True), torch.optim.Adam([weight], fused=False)
    gone = "PyTorch's fused optimizers no longer take found_inf: steps with NaN would be taken; see skip_on_device"
    assert private_api.skip_on_device(fused, torch.tensor(True)), gone
    fused.step()
    assert torch.equal(weight, torch.ones(3)), gone
    assert private_api.skip_on_device(fused, torch.tensor(False))
    fused.step()
    assert not torch.equal(weight, torch.ones(3))
    assert not private_api.skip_on_device(plain, torch.tensor(True))


def test_tensors_are_multiplied_in_one_kernel() -> None:
    tensors = [torch.ones(2), torch.full((3,), 2.0)]
    assert hasattr(torch, "_foreach_mul_"), "torch._foreach_mul_ is gone: fp16's gradients need it; see multiply_"
    private_api.multiply_(tensors, torch.tensor(3.0))
    assert [tensor.tolist() for tensor in tensors] == [[3, 3], [6, 6, 6]]


def test_synchronized_batch_norm_takes_what_it_is_given() -> None:
    taken = list(inspect.signature(private_api.SyncBatchNorm.forward).parameters)
    expected = ["self", "input", "weight", "bias", "running_mean", "running_var", "eps", "momentum"]
    assert taken == [*expected, "process_group", "world_size"], (
        "torch.nn.modules._functions.SyncBatchNorm takes other arguments: the discriminator's batch normalization over "
        "several GPUs calls it; see GlobalBatchNorm2d"
    )


def test_lightning_asks_the_ranks_for_sigterm_where_it_is_stopped() -> None:
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(_TrainingEpochLoop), (
        "Lightning's epoch loop no longer calls _broadcast_sigterm_tensor: several ranks may wait for the device in "
        "every iteration again, or one may leave without the others; see stop_sigterm_broadcast"
    )
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    private_api.stop_sigterm_broadcast(trainer)
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None


def test_a_checkpoint_keeps_the_counters_that_are_set() -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    assert private_api.batches_begun(trainer) == 0, "Lightning counts batches elsewhere; see batches_begun"
    loop: _FitLoop = trainer.fit_loop
    state = loop.state_dict()
    names = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress")
    counters = {"ready", "completed", "started", "processed"}
    moved = "Lightning keeps its loops' counters elsewhere: a resumed run would go wrong; see set_counters"
    assert all(set(state[name]["total"]) == counters for name in names), moved
    assert "_batches_that_stepped" in state["epoch_loop.state_dict"], moved
    private_api.set_counters(state, 7, validate=False)
    loop.load_state_dict(state)
    assert private_api.batches_begun(trainer) == 7, moved
    assert private_api.epoch_began(trainer) == 0, moved
    assert loop.epoch_loop._batches_that_stepped == 6, moved
    assert loop.epoch_loop.val_loop.batch_progress.total.ready == 0, moved


def test_no_other_module_uses_what_has_no_public_name() -> None:
    """By the names that were found in the past."""
    names = ("._functions", "_foreach", "found_inf", "_supports_amp", "_broadcast_sigterm", "batch_progress")
    for path in SOURCE.parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert path == SOURCE or not [name for name in names if name in text], path


def test_a_script_says_nothing_of_its_sources_and_runs() -> None:

    def sources(file: io.BytesIO) -> list[str]:
        with zipfile.ZipFile(file) as archive:
            folder = str(Path(torch.__file__).parent).encode()
            return [name.split("/")[-1] for name in archive.namelist() if folder in archive.read(name)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(torch.nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 5, 5))
        script = io.BytesIO()
        torch.jit.save(traced, script, _extra_files={"note": "kept"})
        assert sources(script)
        gone = "PyTorch's reader and writer of files have moved: scripts name this machine's folders"
        assert hasattr(torch._C, "PyTorchFileReader"), gone
        stripped = private_api.without_source_lines(script)
        note = {"note": ""}
        loaded = torch.jit.load(io.BytesIO(stripped.getvalue()), _extra_files=note)
    assert sources(stripped) == []
    assert note == {"note": b"kept"}
    image = torch.rand(1, 1, 7, 6)
    assert torch.equal(loaded(image), traced(image))
