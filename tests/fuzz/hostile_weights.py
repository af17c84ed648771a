"""Hostile weights and checkpoints: bytes, headers, ZIP entries and dictionaries that lie, and what reads them."""

import collections
import datetime
import fractions
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from esrgan_lit import RRDBNet, SRResNet, load_generator
from esrgan_lit.cli.export import export_main
from esrgan_lit.cli.interpolate import interpolate_main
from esrgan_lit.cli.upscale import main as upscale_main
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.metrics.learned import make_dists, make_lpips
from esrgan_lit.metrics.metric import MetricOptions, MetricUnavailableError
from esrgan_lit.metrics.niqe import read_pristine
from esrgan_lit.training.checkpointing import find_checkpoint
from esrgan_lit.weights.layouts import in_layout
from esrgan_lit.weights.load import load_weights_into
from judging import Kind, files_below, tiny_network
from mutations import Random, damage, forge, odd_value, pick

MARK = "a-file-was-executed"


class Payload:
    """Makes a folder beside the file where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.mkdir, (str(self.folder / MARK),)


@cache
def _states() -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    plain = RRDBNet(scale=2, blocks=2, width=8, growth=4).state_dict()
    return {
        "basicsr": plain,
        "esrgan": in_layout(plain, "esrgan"),
        "old": in_layout(plain, "old"),
        "unshuffled": RRDBNet(scale=2, blocks=1, width=8, growth=4, unshuffle=2).state_dict(),
        "srresnet": SRResNet(scale=2, blocks=1, width=8).state_dict(),
    }


def _content(random: Random) -> dict[str, Any]:
    """Return what a program would save: a state dict, bare or wrapped, or a checkpoint of this library."""
    state = dict(pick(random, list(_states().values())))
    network = RRDBNet(scale=2, blocks=2, width=8, growth=4)
    how = random.integers(5)
    if how == 0:
        return state
    if how == 1:
        return {"params_ema": state, "params": dict(state)}
    if how == 2:
        return {"params_ema": state, "architecture": dict(network.architecture), "metadata": {"license": "none"}}
    return {
        "state_dict": {
            f"{prefix}{key}": value for prefix in ("generator.", "generator_ema.") for key, value in state.items()
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]}],
        "loops": {"fit_loop": {"epoch_loop.batch_progress": {"total": {"ready": 3}}}},
        "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint": {"monitor": "val/psnr_y", "current_score": torch.tensor(20.0)}},
        "config": {"name": "fuzz", "data": {"train": ["a/b", {"_target_": "x"}]}, "scale": 2},
        "architecture": dict(network.architecture),
        "global_step": 3,
        "epoch": 0,
        "pytorch-lightning_version": "2.6.6",
    }


def _odd(random: Random, value: Any) -> Any:
    """Return a tensor or another object in place of a value."""
    if isinstance(value, torch.Tensor) and random.random() < 0.7:
        makers: tuple[Callable[[torch.Tensor], Any], ...] = (
            lambda x: torch.full_like(x, torch.nan, dtype=torch.float32),
            lambda x: torch.full_like(x, torch.inf, dtype=torch.float32),
            lambda x: x[..., None],
            lambda x: x.flatten(),
            lambda x: x[:0],
            lambda x: torch.zeros(()).expand(10**6, 10**5),  # 400 GB, of which 4 bytes are stored
            lambda x: torch.zeros(()).expand(64, 64, 3, 3) if x.ndim == 4 else x.expand(3, *x.shape),
            lambda x: x.to(torch.complex64),
            lambda x: x.to(torch.int8),
            lambda x: x.to(torch.float8_e4m3fn),
            lambda x: x.to_sparse(),
            lambda x: x.to("meta"),
            lambda x: torch.nn.Parameter(x.float()),
            lambda x: x.tolist(),
            lambda x: x.bool(),
            lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        )
        return pick(random, makers)(value.detach().clone())
    makers = (
        lambda _: torch.zeros(3),
        lambda _: {"state_dict": {}},
        lambda _: (1, 2),
        lambda _: b"bytes",
        lambda _: collections.OrderedDict(a=torch.zeros(1)),
        lambda _: collections.Counter("abc"),
        lambda _: torch.Size([1]),
        lambda _: torch.float16,
        lambda _: 2**70,
        lambda _: 1 + 2j,
        lambda _: {1, 2},
    )
    return pick(random, makers)(value) if random.random() < 0.4 else odd_value(random, value)


_KEYS = (
    "body.299999.rdb1.conv1.weight", "body.x.rdb1.conv1.weight", "body.-1.rdb1.conv1.weight", "body..conv1.weight",
    "body.99999999999999999999.rdb1.conv1.weight", "model.1.sub.299999.RDB1.conv1.0.weight", "module.", "ema.",
    "generator.", "generator.generator.generator.conv_first.weight", "conv_first.weight", "conv_last.weight",
    "conv_up4.weight", "RRDB_trunk.300000.RDB1.conv1.weight", "module." * 5000 + "conv_first.weight",
    "model.0.weight", "upconv1.weight",
)  # fmt: skip
_ARCHITECTURES = (
    {"blocks": 10**9}, {"blocks": 300_000}, {"width": 10**6}, {"width": -1}, {"growth": 0}, {"scale": 5},
    {"name": "Generator"}, {"name": ["RRDBNet"]}, {"name": "os.system"}, {"unknown": 1}, {"blocks": 2.0},
    {"scale": "2"}, {"blocks": True},
    {"channels": 10**7}, {"unshuffle": 3}, {"unshuffle": 0}, {"bicubic_skip": "yes"}, {"blocks": None}, {"width": [8]},
    {"scale": float("nan")}, {1: 2}, {"channels": 0}, {"batch_norm": True}, {"name": "SRResNet"},
)  # fmt: skip


def hostile_weights(random: Random, folder: Path) -> Path:
    """Write one file of weights that lies, into a folder."""
    how = random.random()
    if how < 0.3:
        return _write_safetensors(random, folder)
    content: Any = _content(random)
    if how < 0.85:
        content = _lie(content, random, folder)
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=bool(random.random() < 0.85))
    except (
        RuntimeError,
        NotImplementedError,
        TypeError,
        UnicodeEncodeError,
        pickle.PicklingError,
    ):  # what torch cannot write
        buffer = io.BytesIO()
        torch.save(_content(random), buffer)
        how = 1.0
    data = buffer.getvalue()
    if how >= 0.95:
        data = damage(data, random, header=200)
    elif how >= 0.85:
        data = _rewrite_zip(data, random)
    path = folder / f"hostile{pick(random, ('.pth', '.ckpt', '.pt', '.ckpt', '.safetensors'))}"
    path.write_bytes(data)
    return path


def _lie(content: dict[str, Any], random: Random, folder: Path) -> Any:
    """Change what is in a dictionary."""
    how = random.random()
    inner = next((content[key] for key in ("params_ema", "state_dict") if key in content), content)
    if how < 0.35:
        return forge(content, random, _odd)
    if how < 0.55:
        example = pick(random, [value for value in inner.values() if isinstance(value, torch.Tensor)])
        for _ in range(random.integers(1, 3)):
            inner[pick(random, _KEYS)] = _odd(random, example) if random.random() < 0.5 else example
        return content
    if how < 0.7:
        return {**content, "architecture": _architecture(random)}
    if how < 0.8:
        value = pick(random, (Payload(folder), datetime.datetime(2026, 1, 1), Path("x"), fractions.Fraction(1, 3),
                              np.float64(1.0), np.zeros(3), torch.nn.Linear(1, 1), len))  # fmt: skip
        holder = pick(random, (inner, content))
        holder[pick(random, list(holder))] = value
        return value if random.random() < 0.2 else content
    if how < 0.9:
        name = pick(random, ("params_ema", "params", "state_dict", "model", "generator"))
        content[name] = content if random.random() < 0.5 else {name: {name: {name: content.get(name, {})}}}
        return content
    key = pick(random, list(inner))
    inner[key] = _odd(random, inner[key])
    return content


def _architecture(random: Random) -> Any:
    right = dict(RRDBNet(scale=2, blocks=2, width=8, growth=4).architecture)
    forged: Any = right | pick(random, _ARCHITECTURES)
    return pick(random, (forged, forged, forged, json.dumps(forged, default=str), [forged], "{", None, 3))


def _write_safetensors(random: Random, folder: Path) -> Path:
    """Write a file whose header was changed, with a right length or not."""
    state = pick(random, list(_states().values()))
    architecture = (
        _architecture(random) if random.random() < 0.3 else RRDBNet(scale=2, blocks=2, width=8, growth=4).architecture
    )
    metadata = {"architecture": json.dumps(architecture), "metrics": "{}"}
    data = save({key: value.contiguous() for key, value in state.items()}, metadata if random.random() < 0.7 else None)
    how = random.random()
    if how < 0.3:
        data = damage(data, random, header=400)
    elif how < 0.9:
        (length,) = struct.unpack_from("<Q", data)
        header = forge(json.loads(data[8 : 8 + length]), random, _odd_header)
        try:
            text = json.dumps(header).encode()
        except (ValueError, TypeError, RecursionError):  # contains itself
            text = b'{"a":' * 5000
        length = len(text) if random.random() < 0.9 else pick(random, (0, 2**63, 2**31, len(text) + 10, 10**8))
        data = struct.pack("<Q", length) + text + data[8 + struct.unpack_from("<Q", data)[0] :]
    path = folder / "hostile.safetensors"
    path.write_bytes(data)
    return path


def _odd_header(random: Random, value: Any) -> Any:
    if isinstance(value, str) and random.random() < 0.5:
        return pick(random, ("F32", "F64", "F16", "BF16", "I8", "F8_E4M3", "BOOL", "U64", "X9", "C64"))
    return odd_value(random, value)


def _rewrite_zip(data: bytes, random: Random) -> bytes:
    """Change the entries of a PyTorch file: damaged, left out, twice, compressed, renamed."""
    buffer = io.BytesIO()
    try:
        source = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:  # the format before PyTorch 1.6
        return damage(data, random, header=200)
    with source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        chosen = (
            pick(random, names) if random.random() < 0.5 else next(name for name in names if name.endswith("data.pkl"))
        )
        how = random.integers(7)
        for name in names:
            content, new = source.read(name), name
            if name == chosen:
                if how == 0:
                    continue
                content = damage(content, random, header=200) if how in (1, 2) else content
                new = pick(random, ("x/../../" + name, "/" + name, name + "x", "")) if how == 3 else name
            kind = zipfile.ZIP_DEFLATED if how == 4 else zipfile.ZIP_STORED
            target.writestr(zipfile.ZipInfo(new), content, kind)
        if how == 5:
            target.writestr(zipfile.ZipInfo("archive/models/x"), b"")
        if how == 6:
            target.writestr(zipfile.ZipInfo("archive/constants.pkl"), random.bytes(20))
    return buffer.getvalue()


def hostile_metric(random: Random, folder: Path) -> Path:
    """Write one file in place of a metric's, or of VGG's weights."""
    path = folder / "hostile.npz"
    if random.random() < 0.5:
        buffer = io.BytesIO()
        mean: Any = pick(
            random, (np.zeros(36), np.zeros(35), np.array([Payload(folder)]), np.zeros(36, "U5"), np.full(36, np.nan))
        )
        covariance = pick(random, (np.eye(36), np.eye(35), np.zeros(0), np.eye(36, dtype=complex)))
        np.savez(buffer, mu_pris_param=mean, cov_pris_param=covariance, allow_pickle=True)
        path.write_bytes(buffer.getvalue() if random.random() < 0.4 else damage(buffer.getvalue(), random, header=200))
        return path
    state: Any = {f"features.{number}.{kind}": torch.zeros(2) for number in (0, 2, 3, 5) for kind in ("weight", "bias")}
    state |= {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    torch.save(_lie(state, random, folder) if random.random() < 0.7 else Payload(folder), path)
    if random.random() < 0.3:
        path.write_bytes(damage(path.read_bytes(), random, header=200))
    return path


# What reads them


def _safely(read: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a consumer that also says whether the file was executed."""

    def consume(path: Path) -> None:
        try:
            read(path)
        finally:
            assert not (path.parent / MARK).exists(), "the file was EXECUTED"

    return consume


def _load(path: Path) -> None:
    generator = load_generator(path)
    assert all(torch.isfinite(each).all() for each in generator.parameters()), "NaN gets through"


def _interpolate(path: Path) -> None:
    interpolate_main([str(tiny_network()), str(path), "--alpha", "0.5", "-o", str(path.with_name("blend.safetensors"))])


def _export(path: Path) -> None:
    out = path.parents[1] / "out"
    try:
        export_main([str(path), "-o", str(out / "exported.safetensors")])
    finally:
        assert files_below(out) <= {"exported.safetensors"}, "something is left behind"


def _upscale(path: Path) -> None:
    picture = path.parents[1] / "picture.png"
    from hostile_pictures import whole

    picture.write_bytes(whole()["rgb.png"])
    upscale_main([str(picture), "-o", str(path.parents[1] / "big.png"), "--checkpoint", str(path), "--engine", "torch"])


def _start_from(path: Path) -> None:
    load_weights_into(RRDBNet(scale=2, blocks=2, width=8, growth=4), path)


def _resume(path: Path) -> None:
    """Look for the checkpoint to resume from, where the newest one is hostile and the one before it whole."""
    folder = path.parents[1] / "checkpoints"
    folder.mkdir()
    good, bad = folder / "good.ckpt", folder / "last.ckpt"
    parts = {"state_dict": {}, "optimizer_states": [], "lr_schedulers": [], "loops": {}, "global_step": 1}
    torch.save(parts, good)
    bad.write_bytes(path.read_bytes())
    found = find_checkpoint(folder)
    assert found in (good, bad), f"found {found}"
    if found == good:
        raise ValueError(f"{path} is passed over")  # so that it counts as refused


def _metric(make: Callable[[MetricOptions], object]) -> Callable[[Path], None]:
    def consume(path: Path) -> None:
        try:
            make(MetricOptions(lpips_weights=path, dists_weights=path, lpips_network="squeeze"))  # pyright: ignore
        except MetricUnavailableError as error:  # said in one line, and the evaluation goes on without
            raise ValueError(str(error)) from error

    return consume


_WEIGHTS_CONSUMERS = {
    "load_generator": _load,
    "esrgan-interpolate": _interpolate,
    "esrgan-export": _export,
    "esrgan-upscale --checkpoint": _upscale,
    "stage.start_from": _start_from,
    "resume=auto": _resume,
}
_METRIC_CONSUMERS: dict[str, Callable[[Path], object]] = {
    "NIQE's parameters": read_pristine,
    "LPIPS' weights": _metric(lambda options: make_lpips(4, options)),
    "DISTS' weights": _metric(lambda options: make_dists(4, options)),
    "VGG's weights": lambda path: PerceptualLoss("conv1_1", weights=path),
}
WEIGHTS = Kind("weights", hostile_weights, {name: _safely(one) for name, one in _WEIGHTS_CONSUMERS.items()})
METRICS = Kind("metrics' files", hostile_metric, {name: _safely(one) for name, one in _METRIC_CONSUMERS.items()})
