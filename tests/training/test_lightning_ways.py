"""What Lightning's users do: its Trainer without our configuration, its loaders, its checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch.utils.data import DataLoader

import esrgan_lit
from esrgan_lit import Discriminator, GanStage, PairDataModule, PsnrStage, RRDBNet, load_generator
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.training.callbacks import TrainingHealth
from esrgan_lit.training.trainer import _count_ranks, normalize, train
from esrgan_lit.weights.layouts import WeightsError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec",
    "ignore:.*does not have many workers",
    "ignore:It is recommended to use",
    "ignore:.*smaller than the logging interval",
    "ignore:Using ModelCheckpoint with manual",
    "ignore:Checkpoint directory .* exists",
    "ignore:You're resuming from a checkpoint",
    "ignore:Starting from v1.9.0, `tensorboardX`",
    "ignore:.*barebones",
    "ignore:You requested to overfit",
    "ignore:Be aware that when using `ckpt_path`, callbacks",
)


def small() -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(scale=4, blocks=1, width=8, growth=4)


def psnr_stage(**changes: Any) -> PsnrStage:
    return PsnrStage(small(), **changes)


def gan_stage(**changes: Any) -> GanStage:
    return GanStage(
        small(), **{"discriminator": Discriminator(32, 4), "perceptual": None, "start_from": "scratch", **changes}
    )


def trainer(folder: Path, **options: Any) -> L.Trainer:
    usual = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(default_root_dir=folder, **{**usual, "enable_checkpointing": False, **options})


@pytest.fixture
def data(photograph_folder: Path) -> PairDataModule:
    return PairDataModule([photograph_folder], [photograph_folder / "a.png"], crop=32, batch=2, workers=0)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("make", [psnr_stage, gan_stage])
def test_a_plain_trainer_fits_twice_validates_tests_and_predicts(
    make: Callable[[], Any], data: PairDataModule, tmp_path: Path
) -> None:
    stage = make()
    first = trainer(tmp_path, max_steps=2, logger=True, enable_checkpointing=True)
    first.fit(stage, data)
    assert first.global_step == 2
    moved = {key: value.clone() for key, value in stage.generator.state_dict().items()}
    trainer(tmp_path, max_steps=2).fit(stage, data)
    assert not torch.equal(moved["conv_first.weight"], stage.generator.conv_first.weight)
    (figures,) = trainer(tmp_path).validate(stage, data, verbose=False)
    (tested,) = trainer(tmp_path).test(stage, data, verbose=False)
    assert figures.keys() == {"val/psnr_y", "val/ssim_y", "val/psnr_y_without_ema", "val/ssim_y_without_ema"}
    assert stage.validated_at == 2  # in the training
    assert tested == {name.replace("val/", "test/"): value for name, value in figures.items()}
    low_res = torch.rand(2, 3, 8, 9)
    (batch,) = trainer(tmp_path).predict(stage, DataLoader(low_res, batch_size=2))  # pyright: ignore
    stage.eval()
    with torch.no_grad():
        assert torch.equal(stage(low_res), stage.ema_generator(low_res))
        torch.testing.assert_close(batch, stage(low_res).clamp(0, 1))


def test_folders_are_enlarged(photograph_folder: Path, tmp_path: Path) -> None:
    stage = psnr_stage()
    outputs = trainer(tmp_path).predict(stage, PairDataModule(predict=[photograph_folder]))
    assert outputs is not None
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 280, 360), (1, 3, 332, 308), (1, 3, 404, 264)]  # pyright: ignore
    expected = esrgan_lit.upscale(photograph_folder / "a.png", stage.generator)
    image = (outputs[0][0] * 255 + 0.5).floor().byte().permute(1, 2, 0).numpy()  # pyright: ignore
    assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1
    with pytest.raises(ValueError, match=r"data\.predict is not set: .*PairDataModule\(predict="):
        trainer(tmp_path).predict(stage, PairDataModule())
    with pytest.raises(ValueError, match=r"data\.train is not set"):
        trainer(tmp_path, max_steps=1).fit(stage, PairDataModule(validation=[photograph_folder]))


def test_pairs_of_another_loader(tmp_path: Path) -> None:
    pairs = [(torch.rand(3, 16, 16), torch.rand(3, 64, 64)) for _ in range(4)]
    stage, loader = psnr_stage(), DataLoader(pairs, batch_size=2)
    run = trainer(tmp_path, max_steps=3, log_every_n_steps=1, callbacks=[TrainingHealth()])
    run.fit(stage, loader, DataLoader([Pair(*pair) for pair in pairs]))
    assert run.global_step == 3
    assert run.callback_metrics["val/psnr_y"] > 0


def test_epochs_are_passes_and_a_fraction_of_one_validates(data: PairDataModule, tmp_path: Path) -> None:
    validated = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            validated.append((trainer.current_epoch, trainer.global_step))

    data.batch = 1  # three photographs: three iterations a pass
    options = {
        "val_check_interval": 0.5,
        "num_sanity_val_steps": 0,
    }
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    run = trainer(tmp_path, max_epochs=2, callbacks=[Watch(), save], **{**options, "enable_checkpointing": True})
    whole = psnr_stage()
    run.fit(whole, data)
    assert (run.current_epoch, run.global_step) == (2, 6)
    assert validated == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6)]  # Lightning rounds 1.5 down
    for steps in (3, 4):  # resumed behind the first pass, and in the middle of the second
        resumed, stage = trainer(tmp_path, max_epochs=2, **options), psnr_stage()
        resumed.fit(stage, data, ckpt_path=tmp_path / f"{steps}.ckpt")
        assert (resumed.current_epoch, resumed.global_step) == (2, 6)
        assert same(stage.generator, whole.generator), steps


def test_what_trainers_can_do(data: PairDataModule, tmp_path: Path) -> None:
    """Fits that go on, parts of epochs, and what the stage does itself."""
    data.batch, again = 1, trainer(tmp_path, max_epochs=1)
    stage = psnr_stage()
    again.fit(stage, data)
    again.fit_loop.max_epochs = 2
    again.fit(stage, data)
    assert (again.current_epoch, again.global_step) == (2, 6)
    for options, steps in (({"limit_train_batches": 2, "max_epochs": 2}, 4), ({"fast_dev_run": 2}, 2)):
        run = trainer(tmp_path, **options)
        run.fit(psnr_stage(), data)
        assert run.global_step == steps
    L.Trainer(barebones=True, max_steps=1, accelerator="cpu").fit(psnr_stage(), data)
    for options, message in {
        ("gradient_clip_val", 0.5): r"give it options=StepOptions\(clip_norm=0.5\)",
        ("accumulate_grad_batches", 2): r"options=StepOptions\(accumulate=2\)",
        ("overfit_batches", 1): r"overfit_batches: batches are drawn by number here",
    }.items():
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, max_steps=1, **dict([options])).fit(psnr_stage(), data)


def test_epochs_and_fractions_by_configuration(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = configure("quickstart_psnr", "trainer.max_epochs=4", "trainer.val_check_interval=1.0", "data.batch=1")
    assert torch.load(train(config), weights_only=True)["global_step"] == 12
    assert config.trainer.max_steps == 12
    assert config.stage.scheduler.T_max == 12
    assert len(list((tmp_path / "run" / "panels").glob("step_*.png"))) == 4
    counted = configure("psnr_rrdb23", "trainer.max_epochs=4", "data.batch=1", "trainer.devices=auto")
    normalize(counted)
    assert counted.trainer.max_steps == 12
    for change, message in {
        "data.train=[]": "data.train is empty; give 'data.train=",
        "data.train=???": "data.train is not set; give 'data.train=",
        "data.batch=x": "data.batch=x does not fit; give a whole number",
        "trainer.devices=null": "trainer.devices=null does not fit; give .*trainer.devices=auto",
        "trainer.num_nodes=x": "trainer.num_nodes=x does not fit",
    }.items():
        with pytest.raises(ValueError, match=message):
            normalize(configure("psnr_rrdb23", "trainer.max_epochs=4", change))


@pytest.mark.parametrize(
    ("devices", "ranks"), [("auto", 1), ("-1", 1), (3, 3), ("'3'", 3), ("[0,2]", 2), ("'0,2'", 2), ("'1,'", 1)]
)
def test_ranks_are_counted_as_lightning_counts_them(devices: object, ranks: int) -> None:
    given = OmegaConf.from_dotlist([f"devices={devices}", "num_nodes=2", "accelerator=cpu"])
    assert _count_ranks(given) == 2 * ranks


@pytest.mark.parametrize("experiment", ["psnr_rrdb23", "gan_rrdb23"])
def test_a_stage_is_made_anew_from_its_checkpoint_alone(
    configure: Callable[..., DictConfig], data: PairDataModule, tmp_path: Path, experiment: str
) -> None:
    stage_class = PsnrStage if experiment == "psnr_rrdb23" else GanStage
    last = train(configure(experiment, "stage.optimizer.lr=3e-5"))
    stage = stage_class.load_from_checkpoint(last)
    content = torch.load(last, weights_only=True)["state_dict"]
    assert stage.state_dict().keys() == content.keys()
    assert all(torch.equal(value, content[key]) for key, value in stage.state_dict().items())
    assert same(stage.ema_generator, load_generator(last))
    assert stage.validated_at == 2
    assert stage.figures.keys() == {"PSNR-Y (dB)", "SSIM-Y"}
    (figures,) = trainer(tmp_path).validate(stage, data, verbose=False)
    assert (
        figures
        == trainer(tmp_path).validate(stage_class.load_from_checkpoint(last), data, ckpt_path=last, verbose=False)[0]
    )
    run = trainer(tmp_path, max_steps=3)  # goes on with what it was trained by
    run.fit(stage, data, ckpt_path=last)
    assert run.optimizers[0].param_groups[0]["lr"] == 3e-5
    assert stage_class.load_from_checkpoint(last, ema_decay=None).ema is None
    other = GanStage if stage_class is PsnrStage else PsnrStage
    with pytest.raises(WeightsError, match=rf"other stage: esrgan_lit.{stage_class.__name__}.load_from_checkpoint"):
        other.load_from_checkpoint(last)


@pytest.mark.parametrize("make", [psnr_stage, gan_stage])
def test_also_where_python_made_it(make: Callable[..., Any], data: PairDataModule, tmp_path: Path) -> None:
    stage = make(ema_decay=None)
    run = trainer(tmp_path, max_steps=1)
    run.fit(stage, data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = type(stage).load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.ema is None
    assert same(again, stage)
    averaged = type(stage).load_from_checkpoint(tmp_path / "a.ckpt", ema_decay=0.9)
    assert same(averaged.ema_generator, stage.generator)


def test_nothing_in_a_checkpoint_is_executed(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    last = train(configure("psnr_rrdb23"))
    content = torch.load(last, weights_only=True)
    witness = tmp_path / "executed"
    for target in ("os.system", "esrgan_lit.files.write_text", "esrgan_lit.files.os.mkdir", "antigravity.Fly"):
        content["config"]["stage"]["losses"] = {"pixel": {"_target_": target, "_args_": [str(witness), "text"]}}
        torch.save(content, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match=rf"losses is a {target}, which is not imported"):
            PsnrStage.load_from_checkpoint(tmp_path / "bad.ckpt")
        assert not witness.exists()
    assert PsnrStage.load_from_checkpoint(tmp_path / "bad.ckpt", losses=None).terms[0] == "pixel"
    (tmp_path / "none.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="neither a safetensors nor a PyTorch file"):
        PsnrStage.load_from_checkpoint(tmp_path / "none.ckpt")


def plain(value: Any) -> Any:
    """A part as its configuration says it: what it is of, and what with."""
    if hasattr(value, "func"):
        return {"_target_": f"{value.func.__module__}.{value.func.__name__}", **value.keywords}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("stage", ["psnr", "gan"])
def test_defaults_in_python_are_the_configuration_s(
    configure: Callable[..., DictConfig], stage: str, photograph_folder: Path
) -> None:
    import inspect

    from hydra import compose, initialize_config_module

    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        given = compose("train", [f"stage={stage}", "data=folder", "trainer.max_steps=1"])
    constructor = inspect.signature(PsnrStage if stage == "psnr" else GanStage).parameters
    for name in constructor.keys() - {"generator", "losses"}:
        part, default = OmegaConf.to_container(given.stage, resolve=True).get(name), plain(constructor[name].default)
        if name in ("discriminator", "adversarial", "perceptual"):
            classes = {
                "discriminator": Discriminator,
                "adversarial": "RelativisticAverageLoss",
                "perceptual": "PerceptualLoss",
            }
            theirs = getattr(esrgan_lit, part.pop("_target_").rpartition(".")[2])
            assert {key: inspect.signature(theirs).parameters[key].default for key in part} == part, classes[name]
        elif name in ("options", "validation"):
            continue  # below
        elif name in ("optimizer", "discriminator_optimizer", "scheduler", "discriminator_scheduler"):
            assert part.pop("_partial_")
            target = part.pop("_target_").rpartition(".")[2]
            assert default.pop("_target_").rpartition(".")[2] == target
            assert {key: list(v) if isinstance(v, tuple) else v for key, v in default.items()} == part, name
        elif name == "loss_weights":
            assert (dict(default) if default else {"pixel": 1.0}) == part
        else:
            assert default == part, name
    for part, made in (
        (given.stage.options, esrgan_lit.StepOptions),
        (given.stage.validation, esrgan_lit.Validation),
        (given.data, PairDataModule),
    ):  # pyright: ignore
        parameters = inspect.signature(made).parameters
        for key, value in OmegaConf.to_container(part, resolve=False).items():
            if key in ("_target_", "metrics", "rank_by", "options", "train"):
                continue
            if isinstance(value, str) and value.startswith("$"):
                value = given[key]
            if parameters[key].default is not inspect.Parameter.empty:
                assert parameters[key].default == value, key


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "comet", "csv"])
def test_panels_go_to_loggers_of_every_kind(data: PairDataModule, tmp_path: Path, name: str) -> None:
    from types import SimpleNamespace

    from esrgan_lit import ImagePanels  # pyright: ignore

    seen: list[tuple[Any, ...]] = []

    def note(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    experiments = {
        "tensorboard": {"add_image": note},
        "mlflow": {"log_image": note},
        "comet": {"log_image": note},
        "csv": {},
    }
    logger: Any = SimpleNamespace(experiment=SimpleNamespace(**experiments[name]))
    if name == "mlflow":
        logger.run_id = "7"
    stage, panels = psnr_stage(), ImagePanels(tmp_path / "panels", 1, 32, tmp_path / "outputs")
    run: Any = SimpleNamespace(sanity_checking=False, is_global_zero=True, global_step=5, loggers=[logger])
    data.setup("validate")
    assert data.images is not None
    image = data.images[0]
    batch = image._replace(pair=Pair(*(part[None] for part in image.pair)))
    panels.on_validation_batch_end(run, stage, stage(batch.pair.low_res), batch, 0)
    assert (tmp_path / "panels" / "step_0000005_a.png").is_file()
    with Image.open(tmp_path / "outputs" / "step_0000005" / "a.png") as output:
        assert output.size == (88, 68)  # whole
    assert len(seen) == (name != "csv")
    if seen:
        ((args, named),) = seen
        picture = next(one for one in (*args, *named.values()) if isinstance(one, np.ndarray))
        assert picture.shape == (32, 4 * 32, 3)
        assert named.get("step", args[-1]) == 4


def test_tensorboard_has_figures_and_panels(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(configure("psnr_rrdb23", "logger=tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"train/pixel", "val/psnr_y"} <= set(events.Tags()["scalars"])
    (panel,) = events.Images("panels/a")
    assert (panel.step, panel.width, panel.height) == (events.Scalars("val/psnr_y")[0].step, 4 * 88, 68)
    assert (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").is_file()
