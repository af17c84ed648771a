"""Training iterations beside a plain eager loop that does what BasicSR's trainer does, in one run.

    python benchmarks/train_step.py                          # CPU: speed at 4 blocks, bits, memory, Lightning's share
    python benchmarks/train_step.py --blocks 4 23            # CPU: the paper's generator as well (minutes an iteration)
    python benchmarks/train_step.py --device cuda            # one GPU: every variant, it/s, TFLOP/s, memory

The rival: dense blocks with ``torch.cat``, NCHW, float32, five forwards of D in a GAN iteration, every loss fetched by
``.item()`` in every iteration, Adam and the running average (EMA) as PyTorch and BasicSR have them by default. Rival
and ours take turns, a few iterations each, and on a CPU each has a process of its own: in one, each would find the
memory that the other has freed. The ratio is that of the medians. The perceptual network has random weights: its cost
is the same. Prints Markdown.
"""

import argparse
import copy
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle, islice
from multiprocessing.connection import Connection
from typing import Any, cast

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from esrgan_lit import Discriminator, GanStage, PsnrStage, RRDBNet
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.losses.adversarial import RelativisticAverageLoss
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.networks.dense_block import ResidualDenseBlock
from esrgan_lit.training.base_stage import Stage
from esrgan_lit.training.optimizer_step import BatchNormBuffers, StepOptions, keep_freed_memory
from esrgan_lit.training.trainer import NOISE

SCHEDULE = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[50_000], gamma=0.5)
WEIGHTS = {"pixel": 1e-2, "perceptual": 1.0, "adversarial": 5e-3}
DECAY = 0.999


class Batches(IterableDataset[Pair]):
    """The same few batches over and over: reading is not what is measured here."""

    def __init__(self, batch: int, crop: int, device: str) -> None:
        torch.manual_seed(1)
        self.pairs = [
            Pair(
                torch.rand(batch, 3, crop // 4, crop // 4, device=device),
                torch.rand(batch, 3, crop, crop, device=device),
            )
            for _ in range(3)
        ]

    def __iter__(self) -> Iterator[Pair]:
        return cycle(self.pairs)


def make_stage(kind: str, blocks: int, width: int, crop: int, fused: bool, options: StepOptions) -> Stage:
    """A stage at the paper's settings but for the generator's size."""
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.9, 0.999), fused=fused)
    generator = RRDBNet(blocks=blocks, width=width, growth=width // 2)
    if kind == "psnr":
        return PsnrStage(generator, adam, SCHEDULE, DECAY, options=options)
    return GanStage(
        generator,
        Discriminator(crop, width),
        PerceptualLoss("conv5_4" if width == 64 else "conv1_2", weights="untrained"),
        RelativisticAverageLoss(),
        WEIGHTS,
        adam,
        adam,
        SCHEDULE,
        SCHEDULE,
        DECAY,
        "scratch",
        options,
    )


class PlainLoop:
    """BasicSR's order of work, written out. Starts from copies of a stage's networks."""

    def __init__(self, stage: Stage, fused: bool) -> None:
        self.generator = copy.deepcopy(stage.generator)
        for module in self.generator.modules():
            if isinstance(module, ResidualDenseBlock):
                use_cat(module)
        self.average = copy.deepcopy(stage.generator)
        adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.9, 0.999), **({"fused": True} if fused else {}))
        self.optimizer_g = adam(self.generator.parameters())
        self.discriminator: Any = copy.deepcopy(getattr(stage, "discriminator", None))
        self.perceptual: Any = copy.deepcopy(dict(stage.losses.items()).get("perceptual"))
        if self.discriminator is not None:
            self.optimizer_d = adam(self.discriminator.parameters())
        self.log: dict[str, float] = {}

    def iterate(self, pair: Pair) -> None:
        """One iteration."""
        if self.discriminator is None:
            self.optimizer_g.zero_grad()
            loss = F.l1_loss(self.generator(pair.low_res), pair.high_res)
            loss.backward()
            self.optimizer_g.step()
            losses = {"pixel": loss}
        else:
            losses = self._iterate_gan(pair)
        self.log = {name: loss.item() for name, loss in losses.items()}
        weights = dict(self.generator.named_parameters())
        with torch.no_grad():
            for name, mean in self.average.named_parameters():
                mean.mul_(DECAY).add_(weights[name], alpha=1 - DECAY)

    def _iterate_gan(self, pair: Pair) -> dict[str, Tensor]:
        for parameter in self.discriminator.parameters():
            parameter.requires_grad = False
        self.optimizer_g.zero_grad()
        fake = self.generator(pair.low_res)
        pixel = F.l1_loss(fake, pair.high_res)
        perceptual = self.perceptual(fake, pair.high_res)
        real_logits, fake_logits = self.discriminator(pair.high_res).detach(), self.discriminator(fake)
        adversarial = 0.5 * (bce(real_logits - fake_logits.mean(), 0) + bce(fake_logits - real_logits.mean(), 1))
        terms = {"pixel": pixel, "perceptual": perceptual, "adversarial": adversarial}
        sum(weight * terms[name] for name, weight in WEIGHTS.items()).backward()
        self.optimizer_g.step()

        for parameter in self.discriminator.parameters():
            parameter.requires_grad = True
        self.optimizer_d.zero_grad()
        # BasicSR's two backwards with detached means take three more forwards of D; one backward of the same sum, with
        # the gradient through both means (the paper's, ours), is what can be compared bit for bit.
        self.discriminator(fake.detach())
        real_logits, fake_logits = self.discriminator(pair.high_res), self.discriminator(fake.detach())
        loss = 0.5 * (bce(real_logits - fake_logits.mean(), 1) + bce(fake_logits - real_logits.mean(), 0))
        loss.backward()
        self.optimizer_d.step()
        return {"pixel": pixel, "perceptual": perceptual, "adversarial": adversarial, "discriminator": loss}


def use_cat(block: ResidualDenseBlock) -> None:
    """Have a dense block concatenate, as everybody's does."""
    block.with_skip = lambda x: (x, block.concatenating(x))  # pyright: ignore[reportAttributeAccessIssue]


def bce(logits: Tensor, target: float) -> Tensor:
    """Cross-entropy of logits against one target for all."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


Rival = Callable[[int], float]  # computes so many iterations, and says how many seconds they took


def now(device: str) -> float:
    """Seconds, with the device idle."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(iterate: Callable[[Pair], None], batches: Iterable[Pair], device: str) -> Rival:
    """A rival in this process."""
    pairs = iter(batches)

    def run(iterations: int) -> float:
        begun = now(device)
        for pair in islice(pairs, iterations):
            iterate(pair)
        return now(device) - begun

    return run


class PlainLoopBeside:
    """A rival in a process of its own: the plain loop.

    Args:
        kind: ``psnr`` or ``gan``.
        blocks: of the generator.
        batch: crops in a batch.
        crop: their side.
        alike: with our fused Adam, and the memory it has freed kept; otherwise both as PyTorch has them.
    """

    def __init__(self, kind: str, blocks: int, batch: int, crop: int, alike: bool) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve_plain_loop, args=(theirs, kind, blocks, batch, crop, alike))
        self.process.start()
        theirs.close()

    def __call__(self, iterations: int) -> float:
        self.connection.send(iterations)
        return self.connection.recv()

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self.process.join()


def serve_plain_loop(connection: Connection, kind: str, blocks: int, batch: int, crop: int, alike: bool) -> None:
    """Iterate as often as the other end says, until it hangs up."""
    if alike:
        keep_freed_memory()
    loop = PlainLoop(make_stage(kind, blocks, 64, crop, True, StepOptions()), fused=alike)
    run = timed(loop.iterate, Batches(batch, crop, "cpu"), "cpu")
    while True:
        try:
            connection.send(run(connection.recv()))
        except EOFError:
            return


class TurnTaking(L.Callback):
    """Times our iterations in turns, and lets the rival have its turns in between."""

    def __init__(self, turns: int, iterations: int, warm_up: int, rival: Rival | None, device: str) -> None:
        self.plan = (turns, iterations, warm_up)
        self.rival = rival
        self.device = device
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.count = 0
        self.started = 0.0
        self.bar = tqdm(total=turns, desc="turns", leave=False)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Start a turn."""
        _, iterations, warm_up = self.plan
        if self.count >= warm_up and (self.count - warm_up) % iterations == 0:
            self.started = now(self.device)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """End a turn; then the rival's."""
        turns, iterations, warm_up = self.plan
        self.count += 1
        if self.count < warm_up or (self.count - warm_up) % iterations:
            if self.count == warm_up and self.rival:
                self.rival(iterations)
            return
        if self.count > warm_up:
            self.ours.append((now(self.device) - self.started) / iterations)
            self.bar.update()
        if self.rival:
            taken = self.rival(iterations)
            if self.count > warm_up:
                self.theirs.append(taken / iterations)
        if len(self.ours) == turns:
            trainer.should_stop = True


def train(
    stage: Stage, batches: Batches, turns: TurnTaking, device: str, precision: Any = "32-true", full: bool = False
) -> None:
    """Run a stage in a Lightning trainer, with the shipped loggers and callbacks where ``full``."""
    with tempfile.TemporaryDirectory() as folder:
        loggers: Any = [CSVLogger(folder, flush_logs_every_n_steps=100)] if full else False
        callbacks: list[L.Callback] = [LearningRateMonitor("step"), TQDMProgressBar(refresh_rate=10)] if full else []
        if full:
            try:
                from lightning.pytorch.loggers import WandbLogger

                loggers.append(WandbLogger(save_dir=folder, mode="offline"))
            except ModuleNotFoundError:
                pass
        trainer = L.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            max_steps=10_000,
            precision=precision,
            logger=loggers,
            callbacks=[*callbacks, turns],
            log_every_n_steps=50,
            enable_checkpointing=False,
            enable_progress_bar=full,
            enable_model_summary=False,
            benchmark=device == "cuda",
        )
        trainer.fit(stage, DataLoader(batches, batch_size=None))
    turns.bar.close()


def compare_speed(arguments: argparse.Namespace) -> None:
    """Print a table: each stage and size beside the plain loop, as it is and with what is not the network's alike."""
    print(
        "\n| stage | blocks | plain loop, s/it | ours, s/it | ratio | ratio, rival with our Adam and memory settings |"
        "\n|---|---:|---:|---:|---:|---:|"
    )
    for kind in arguments.stages:
        for blocks in arguments.blocks:
            medians = []
            for alike in (False, True):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                    medians.append(fresh.submit(beside_plain_loop, arguments, kind, blocks, alike).result())
            (theirs, ours), alike_medians = medians
            print(
                f"| {kind} | {blocks} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.2f} | "
                f"{alike_medians[0] / alike_medians[1]:.2f} |",
                flush=True,
            )


def beside_plain_loop(arguments: argparse.Namespace, kind: str, blocks: int, alike: bool) -> tuple[float, float]:
    """Median seconds an iteration: the plain loop's and ours."""
    silence()
    rival = PlainLoopBeside(kind, blocks, arguments.batch, arguments.crop, alike)
    try:
        turns = TurnTaking(arguments.turns, arguments.iterations, 1, rival, "cpu")
        stage = make_stage(kind, blocks, 64, arguments.crop, True, StepOptions())
        train(stage, Batches(arguments.batch, arguments.crop, "cpu"), turns, "cpu")
    finally:
        rival.close()
    return statistics.median(turns.theirs), statistics.median(turns.ours)


def compare_bits(arguments: argparse.Namespace) -> None:
    """Print the largest difference of any parameter after some iterations with the same optimizer."""
    for kind in arguments.stages:
        batches = Batches(arguments.batch, arguments.crop, "cpu")
        stage = make_stage(kind, arguments.blocks[0], 64, arguments.crop, True, StepOptions())
        rival = PlainLoop(stage, fused=True)
        for pair in islice(iter(batches), 3):
            rival.iterate(pair)
        train(stage, batches, TurnTaking(3, 1, 0, None, "cpu"), "cpu")
        networks = [(stage.generator, rival.generator)]
        if rival.discriminator is not None:
            networks.append((stage.discriminator, rival.discriminator))  # pyright: ignore[reportArgumentType]
        differences = [
            (ours - theirs).abs().max().item()
            for pair in networks
            for ours, theirs in zip(*(network.parameters() for network in pair), strict=True)
        ]
        print(
            f"\n{kind}, {arguments.blocks[0]} blocks, 3 iterations, batch {arguments.batch}, crops {arguments.crop}²: "
            f"largest difference of {len(differences)} parameter tensors: {max(differences):g}",
            flush=True,
        )


def compare_memory() -> None:
    """Print what the 23-block generator keeps for backward, one 128² crop."""
    network = RRDBNet()
    ours = kept_for_backward(network)
    for module in network.modules():
        if isinstance(module, ResidualDenseBlock):
            use_cat(module)
    usual = kept_for_backward(network)
    print(
        f"\nkept for backward by 23 blocks, one 128² crop: {ours / 2**20:.0f} MiB, with `cat` {usual / 2**20:.0f} MiB "
        f"({ours / usual:.2f})",
        flush=True,
    )


def kept_for_backward(network: RRDBNet) -> int:
    """Bytes of the distinct storages that autograd keeps, weights left out."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(torch.rand(1, 3, 32, 32))
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    assert output.requires_grad
    return sum(size for pointer, size in storages.items() if pointer not in weights)


class RawLoop:
    """What one of our GAN iterations computes, without Lightning or logging.

    Args:
        stage: whose networks and losses to use.
        guarded: look for NaN and inf in the gradients, and be ready to put batch normalisation's statistics back.
    """

    def __init__(self, stage: GanStage, guarded: bool) -> None:
        self.stage = copy.deepcopy(stage)
        self.guarded = guarded
        adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.9, 0.999), fused=True)
        self.nets: list[nn.Module] = [self.stage.generator, self.stage.discriminator]
        self.stage.parameters_of = {net: list(net.parameters()) for net in (*self.nets, self.stage.ema_generator)}
        self.optimizers = [adam(network.parameters()) for network in self.nets]

    def iterate(self, pair: Pair) -> None:
        """One iteration."""
        stage = self.stage
        before = BatchNormBuffers(list(stage.discriminator.buffers()) if self.guarded else [])
        fake = stage.generator(pair.low_res)
        real, generated = stage.discriminator(pair.high_res), stage.discriminator(fake)
        logits = real, generated, real.mean(), generated.mean()
        terms = {name: term(fake, pair.high_res) for name, term in stage.losses.items()}
        terms["adversarial"] = stage.adversarial.generator(*logits)
        losses = stage.weighted_sum(terms), stage.adversarial.discriminator(*logits)
        skips: list[Tensor] = []
        for loss, network, optimizer in zip(losses, self.nets, self.optimizers, strict=True):
            parameters = stage.parameters_of[network]
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True
            ):
                parameter.grad = gradient
            if self.guarded:
                skipped = ~get_total_norm([cast(Tensor, parameter.grad) for parameter in parameters]).isfinite()
                optimizer.found_inf = skipped.float()  # pyright: ignore[reportAttributeAccessIssue]
                skips.append(skipped)
            optimizer.step()
            if network is stage.generator:
                stage.update_ema()
            for parameter in parameters:
                parameter.grad = None
        if skips:
            before.restore_if(torch.stack(skips).any())


def measure_lightning(arguments: argparse.Namespace) -> None:
    """Print what Lightning, every logger and callback and the log cost over a raw loop of the same step."""
    device = arguments.device
    for guarded in (True, False):
        batches = Batches(4, 32, device)
        stage = make_stage("gan", 2, 16, 32, True, StepOptions(channels_last=False))
        raw = RawLoop(stage, guarded)  # pyright: ignore[reportArgumentType]
        raw.stage.to(device)
        turns = TurnTaking(15, 20, 50, timed(raw.iterate, batches, device), device)
        train(stage, batches, turns, device, full=True)
        ours, theirs = statistics.median(turns.ours), statistics.median(turns.theirs)
        guard = "with its guard against NaN" if guarded else "without its guard against NaN"
        print(
            f"\nLightning with CSV, W&B (offline), progress bar and callbacks: {1e3 * ours:.2f} ms an iteration, "
            f"raw loop of the same step {guard} {1e3 * theirs:.2f} ms: {1e3 * (ours - theirs):.2f} ms more",
            flush=True,
        )


def table_on_gpu(arguments: argparse.Namespace) -> None:
    """Print it/s, TFLOP/s and memory of every variant of both stages; a variant that fails says why."""
    print(
        f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, "
        f"batch {arguments.batch}, crops of {arguments.crop}²"
    )
    print(
        "\n| stage | blocks | variant | it/s | TFLOP/s | peak GiB | × plain loop |\n|---|---:|---|---:|---:|---:|---:|"
    )
    plain = StepOptions(channels_last=False)
    variants: list[tuple[str, Any, StepOptions]] = [
        ("float32, NCHW", "32-true", plain),
        ("float32, channels_last", "32-true", StepOptions()),
        ("bf16, channels_last", "bf16-mixed", StepOptions()),
        ("bf16, NCHW", "bf16-mixed", plain),
        ("bf16, channels_last, compiled", "bf16-mixed", StepOptions(compile="default")),
        ("bf16, channels_last, CUDA graphs", "bf16-mixed", StepOptions(compile="reduce-overhead")),
        ("fp16, channels_last", "16-mixed", StepOptions()),
    ]
    batches = Batches(arguments.batch, arguments.crop, "cuda")
    for kind in arguments.stages:
        for blocks in arguments.blocks:
            stage = make_stage(kind, blocks, 64, arguments.crop, True, plain).to("cuda")
            rival = PlainLoop(stage, fused=False)
            with FlopCounterMode(display=False) as counter:
                rival.iterate(batches.pairs[0])
            flops = counter.get_total_flops()
            if kind == "gan":  # ours needs one forward of D for each image set, the rival five in all
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    rival.discriminator(batches.pairs[0].high_res)
                flops -= 3 * counter.get_total_flops()
            torch.cuda.reset_peak_memory_stats()
            begun_with = torch.cuda.memory_allocated()
            run = timed(rival.iterate, batches, "cuda")
            times = [run(arguments.iterations) / arguments.iterations for _ in range(arguments.turns + 1)]
            plain_time = statistics.median(times[1:])  # the first is the warm-up
            peak = (torch.cuda.max_memory_allocated() - begun_with) / 2**30
            print(
                f"| {kind} | {blocks} | plain loop | {1 / plain_time:.1f} | {flops / plain_time / 1e12:.0f} | "
                f"{peak:.1f} | 1 |",
                flush=True,
            )
            del rival, run
            for name, precision, options in variants:
                try:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                    stage = make_stage(kind, blocks, 64, arguments.crop, True, options)
                    warm_up = 20 if options.compile else 5
                    turns = TurnTaking(arguments.turns, arguments.iterations, warm_up, None, "cuda")
                    train(stage, batches, turns, "cuda", precision)
                    seconds = statistics.median(turns.ours)
                    peak = torch.cuda.max_memory_allocated() / 2**30
                    print(
                        f"| {kind} | {blocks} | {name} | {1 / seconds:.1f} | {flops / seconds / 1e12:.0f} | "
                        f"{peak:.1f} | {plain_time / seconds:.2f} |",
                        flush=True,
                    )
                except Exception as error:
                    print(
                        f"| {kind} | {blocks} | {name} | failed: {str(error).splitlines()[0][:80]} | | | |", flush=True
                    )
                finally:
                    torch._dynamo.reset()


def silence() -> None:
    """Leave out what Lightning says about trainers without validation."""
    for message in (*NOISE, ".*does not have many workers", ".*defined a `validation_step`"):
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> None:
    """Run what fits the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--blocks", type=int, nargs="+", help="sizes of the generator; 4 on a CPU, 23 on a GPU")
    parser.add_argument("--stages", nargs="+", choices=("psnr", "gan"), default=["psnr", "gan"])
    parser.add_argument("--batch", type=int, help="crops in a batch; 4 on a CPU, 16 on a GPU")
    parser.add_argument("--crop", type=int, default=128, help="side of the high-resolution crops")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--iterations", type=int, help="of each turn; 1 on a CPU, 20 on a GPU")
    parser.add_argument("--only", choices=("speed", "bits", "memory", "lightning"), help="one part of the CPU's report")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    arguments.blocks = arguments.blocks or [23 if on_gpu else 4]
    arguments.batch = arguments.batch or (16 if on_gpu else 4)
    arguments.iterations = arguments.iterations or (20 if on_gpu else 1)
    silence()
    if on_gpu:
        table_on_gpu(arguments)
        measure_lightning(arguments)
        return
    parts = {
        "bits": partial(compare_bits, arguments),
        "memory": compare_memory,
        "lightning": partial(measure_lightning, arguments),
        "speed": partial(compare_speed, arguments),
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            part()


if __name__ == "__main__":
    main()
