"""Methods to evaluate: networks, blends of two, bicubic. Finished images belong to a test set, opened with it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from esrgan_lit.files import digest
from esrgan_lit.images.levels import to_batch, to_image
from esrgan_lit.inference.back_projection import back_project
from esrgan_lit.inference.choices import BACK_PROJECTIONS, BackProjection, EngineName, check_engine
from esrgan_lit.inference.engines import default_device
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.networks.building import build_within
from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.hub import WEIGHTS
from esrgan_lit.resize import imresize
from esrgan_lit.tensor_files import open_tensors, usable
from esrgan_lit.weights import releases
from esrgan_lit.weights.interpolate import interpolate, interpolate_images
from esrgan_lit.weights.layouts import WeightsError
from esrgan_lit.weights.load import load_generator
from esrgan_lit.weights.reading import UnknownNetworkError

BICUBIC = "bicubic"
BY = ("networks", "images")


class OutputError(RuntimeError):
    """A method gave no image."""


class Method(NamedTuple):
    """Something that enlarges images.

    Attributes:
        name: in tables.
        source: what it is, for the report.
        fingerprint: changes whenever its outputs could.
        enlarge: an image (height, width, channels), such as uint8 RGB → the same of its dtype, scale times larger;
            OutputError or RuntimeError where it cannot.
    """

    name: str
    source: str
    fingerprint: str
    enlarge: Callable[[np.ndarray], np.ndarray]


def bicubic(scale: int) -> Method:
    """Return MATLAB's bicubic interpolation."""

    def enlarge(image: np.ndarray) -> np.ndarray:
        large = imresize(image, scale)
        return large.clip(0, 1) if large.dtype.kind == "f" else large

    return Method(BICUBIC, "MATLAB's bicubic imresize", f"bicubic {scale}", enlarge)


def network(name: str, path: str | Path, runner: "Runner") -> Method:
    """Open a network from a file: of this library, with BasicSR's names, or anything that spandrel reads.

    Args:
        name: in tables.
        path: checkpoint, weights, a folder of ``save_pretrained``, or a release's name.
        runner: of the network.

    Raises:
        WeightsError: when nothing can read it, or it enlarges by another factor.
        ValueError: when the runner's engine does not compute it.
        FileNotFoundError: when there is no such file.
    """
    ready = runner.run(_read_for(runner, path), path)
    return Method(name, f"{path}, {ready.how}", f"{digest(_file(path))} {ready.how}", ready)


def series_name(alpha: float, kind: str) -> str:
    """Return the name of a method of :func:`alpha_series`: at its ends both kinds, networks and images, are one."""
    return f"α = {alpha:g}" + (f" ({kind})" if 0 < alpha < 1 else "")


def alpha_series(
    psnr: str | Path, gan: str | Path, alphas: Sequence[float], runner: "Runner", by: Sequence[str] = BY
) -> list[Method]:
    """Make the α series of two networks: by their weights (Wang et al. 2018, Eq. 4) and by their outputs.

    Outputs are blended as the 8-bit images that they are saved as. At α = 0 and 1 both are the network itself.

    Args:
        psnr: file of the network at α = 0.
        gan: file of the network at α = 1.
        alphas: which.
        runner: of the networks.
        by: ``networks``, ``images`` or both; by images alone, the networks may be of any architecture.

    Raises:
        WeightsError: when the two are of different architectures, or cannot be read.
        ValueError: for an α outside [0, 1], or for another ``by``.
    """
    if not by or not set(by) <= set(BY):
        raise ValueError(f"sweep.by is {list(by)}; give networks, images or both")
    wrong = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if wrong:
        raise ValueError(f"alpha {wrong[0]:g} is not in [0, 1]: 0 is the PSNR network, 1 the GAN's")
    ends = [_read_for(runner, path) for path in (psnr, gan)]
    run_psnr, run_gan = (runner.run(end, path) for end, path in zip(ends, (psnr, gan), strict=True))
    pair = f"{digest(_file(psnr))} {digest(_file(gan))} {run_psnr.how} {run_gan.how}"
    source = f"(1 − α) · {psnr} + α · {gan}, {' and '.join(dict.fromkeys((run_psnr.how, run_gan.how)))}"
    methods = []
    for alpha in alphas:
        if alpha in (0, 1):
            path, end = (gan, run_gan) if alpha else (psnr, run_psnr)
            methods.append(Method(series_name(alpha, ""), f"{path}, {end.how}", f"{alpha} {pair}", end))
            continue
        if "networks" in by:
            for path, end in zip((psnr, gan), ends, strict=True):
                if not isinstance(end, Generator):
                    raise WeightsError(f"the weights of {path} cannot be interpolated here; give 'sweep.by=[images]'")
            both = cast(list[Generator], ends)
            blend = runner.run(interpolate(both[0], both[1], alpha), source)
            key = f"networks {alpha} {pair}"
            methods.append(Method(series_name(alpha, "networks"), f"weights: {source}", key, blend))
        if "images" in by:
            blend = partial(_blend_outputs, run_psnr, run_gan, alpha)
            key = f"images {alpha} to even {pair}"
            methods.append(Method(series_name(alpha, "images"), f"outputs: {source}", key, blend))
    return methods


def _read_for(runner: "Runner", path: str | Path) -> nn.Module:
    scale = runner.scale
    model, found = read_network(path)
    if (found, scale) == (2, 3):
        model, found = read_network(path, scale)  # shapes alone may leave that open
    if found != scale:
        raise WeightsError(f"{path} enlarges {found} times, but scale is {scale}; give scale={found} or leave it out")
    if isinstance(model, Generator) and model.channels != runner.channels:
        raise WeightsError(
            f"{path} takes images of {model.channels} channels, and channels={runner.channels}; give "
            f"channels={model.channels}, or another network"
        )
    return model


def read_network(path: str | Path, scale: int | None = None) -> tuple[nn.Module, int]:
    """Read a network in evaluation mode, and its scale factor.

    Args:
        path: the file.
        scale: where the file leaves it open, as ``load_generator`` takes it.

    Raises:
        WeightsError: when neither this library nor spandrel can read the file.
        FileNotFoundError: when there is no such file.
    """
    try:
        generator = load_generator(path, scale=scale)
    except UnknownNetworkError as ours:
        try:
            import spandrel
        except ImportError:
            raise WeightsError(
                f"{ours}. Weights of other architectures are read with spandrel: pip install 'esrgan_lit[spandrel]'"
            ) from ours
        try:
            described = _read_with_spandrel(Path(path))
        except Exception as theirs:  # whatever the file makes one of forty architectures raise
            reason = str(theirs).splitlines()[0] if str(theirs) else type(theirs).__name__
            raise WeightsError(f"{ours}; nor can spandrel read it: {reason}") from theirs
        if not isinstance(described, spandrel.ImageModelDescriptor):
            raise WeightsError(
                f"{path} holds a {described.architecture.name}, which takes more than an image"
            ) from ours
        return _Described(described), described.scale
    return generator, generator.scale


def _read_with_spandrel(path: Path) -> Any:
    """Return what spandrel makes of a file's tensors. Its own reader would run TorchScript."""
    from spandrel import ModelLoader, canonicalize_state_dict

    content, _, held = open_tensors(path)
    state = canonicalize_state_dict(dict(content))
    state = usable({key: value for key, value in state.items() if isinstance(value, Tensor)}, held, path)
    loader = ModelLoader(device="cpu")
    return build_within(lambda: loader.load_from_state_dict(state), 2 * len(state) + 100, "cpu")


def name_sources(given: str | Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Name one path or several, as {name: path}; a mapping has its names already.

    Names are as much of the paths' ends as tells them apart, without ``checkpoints``: ``runs/a/checkpoints/best.ckpt``
    beside ``runs/b/…`` are ``a/best`` and ``b/best``.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): str(path) for name, path in given.items()}
    paths = list(dict.fromkeys([given] if isinstance(given, str) else map(str, given)))
    parts = [
        [part for part in Path(path).with_suffix("").parts if part not in ("checkpoints", "/", "..")] for path in paths
    ]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    return {path: path for path in paths}


def digest_image(image: np.ndarray) -> str:
    """Return the SHA-256 of an image's size and pixels."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def _file(source: str | Path) -> Path:
    """Return the file that ``load_generator`` has read the weights of a file, a folder or a release from."""
    path = Path(source)
    if path.is_dir():
        return path / WEIGHTS
    return path if path.is_file() else releases.fetch(str(source).lower())


@dataclass(frozen=True)
class Runner:
    """How networks are run.

    Attributes:
        scale: that they must have.
        device: that they run on; by default a GPU where there is one.
        back_project: what their outputs are put through before they become images; None for nothing.
        channels: of the images.
        engine: of this library's networks, in float32; others are PyTorch's.

    Raises:
        ValueError: for a back projection or an engine that is not known.
    """

    scale: int
    device: torch.device = field(default_factory=default_device)
    back_project: BackProjection | None = None
    channels: int = 3
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        if self.back_project not in (None, *BACK_PROJECTIONS):
            known = " or ".join(BACK_PROJECTIONS)
            raise ValueError(f"back_project {self.back_project!r} is not known; use {known}, or null for none")
        check_engine(self.engine)

    def run(self, model: nn.Module, source: str | Path) -> "_Enlarger":
        """Make a network ready to enlarge images.

        Args:
            model: the network.
            source: what it is, for messages.

        Raises:
            ValueError: when the engine does not compute it.
        """
        then = f", then {self.back_project} back projection" if self.back_project else ""
        if isinstance(model, Generator):
            try:
                upscaler = Upscaler(model, self.engine, self.device, "fp32", back_project=self.back_project)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error
            how = f"engine {upscaler.engine.name} on {self.device.type}{then}"
            return _Enlarger(partial(upscaler, bands=True), how)
        if self.engine == "winograd":
            raise ValueError(f"{source}: engine winograd computes this library's networks alone; use --engine auto")
        model = model.to(self.device).eval()
        return _Enlarger(partial(self._enlarge, model), f"engine torch on {self.device.type}{then}")

    @torch.inference_mode()
    def _enlarge(self, model: nn.Module, image: np.ndarray) -> np.ndarray:
        low_res = to_batch(image).to(self.device)
        output = model(low_res)
        if self.back_project:
            output = back_project(output, low_res, self.scale, self.back_project)
        if not output.isfinite().all():
            raise ValueError("the network's result is not finite (NaN or infinity)")
        return to_image(output, image.dtype)


class _Enlarger:
    """Runs a network, and keeps the last output: blends of outputs ask for the same image again and again.

    Args:
        enlarge: an image → the same, larger.
        how: it is computed: engine, device, and what follows.
    """

    def __init__(self, enlarge: Callable[[np.ndarray], np.ndarray], how: str) -> None:
        self.how = how
        self._enlarge = enlarge
        self._last: tuple[str, np.ndarray] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        digest = digest_image(image)
        if self._last is None or self._last[0] != digest:
            try:
                self._last = digest, self._enlarge(image)
            except (ValueError, MemoryError) as error:
                raise OutputError(str(error)) from error
        return self._last[1]


def _blend_outputs(psnr: _Enlarger, gan: _Enlarger, alpha: float, image: np.ndarray) -> np.ndarray:
    return interpolate_images([psnr(image), gan(image)], [1 - alpha, alpha])


class _Described(nn.Module):
    """A network of spandrel's, which pads and crops as its architecture needs."""

    def __init__(self, described: Any) -> None:
        super().__init__()
        self.model = described.model
        self.described = described

    def forward(self, low_res: Tensor) -> Tensor:
        return self.described(low_res)
