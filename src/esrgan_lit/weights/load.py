"""Read generators from files and releases, and write them into slim files."""

import difflib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from esrgan_lit.files import atomic_write
from esrgan_lit.networks.building import fill
from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.hub import WEIGHTS
from esrgan_lit.overrides import as_override
from esrgan_lit.weights import releases
from esrgan_lit.weights.layouts import Architecture, WeightsError
from esrgan_lit.weights.reading import Weights, read_file

log = logging.getLogger(__name__)


def load_generator(source: str | Path, ema: bool = True, scale: int | None = None) -> Generator:
    """Load a generator, ready to use. What a file is, is read from its content, and its architecture from its shapes.

    Args:
        source: a checkpoint of either stage; a file of weights (``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``) with
            the names of BasicSR, of the ESRGAN repository in its new or old form, or of mmagic, whatever stands before
            them and in whatever dictionaries; a folder that ``save_pretrained`` wrote; or a release by its name, such
            as ``esrgan_x4``.
        ema: take the averaged weights of a file that has both, rather than the last ones.
        scale: magnification, needed only where a file leaves it open: an RRDBNet with one upsampling layer is taken
            for ×2 without it, and for ×3 with ``scale=3``.

    Returns:
        The network in evaluation mode, in float32, on the CPU. Its ``scale`` and ``architecture`` say what it is, its
        ``metadata`` where it comes from.

    Raises:
        WeightsError: when the file holds no generator, with what it looks like instead; when values are NaN or
            infinite, with the tensor's name; when the scale is another one.
        FileNotFoundError: when there is neither such a file nor such a release.
        FetchError: when a release cannot be downloaded, with what to do.
    """
    weights = read_weights(source, ema, scale)
    fill(weights.network, weights.state)
    weights.network.metadata, weights.network.source = weights.metadata, str(source)
    return weights.network.eval()


def load_weights_into(generator: Generator, source: str | Path) -> None:
    """Load weights (averaged ones where there are) from what :func:`load_generator` takes into a generator.

    From a network of another scale or unshuffling, else the same, what fits is taken; a warning names the rest.

    Raises:
        WeightsError: when the architectures differ, naming what differs.
    """
    weights = read_weights(source)
    if generator.scale == 3 and weights.network.scale == 2:
        weights = read_weights(source, scale=3)  # shapes alone may leave that open
    differences = differing_fields(weights.architecture, generator.architecture)
    if differences and {key for key, _, _ in differences} <= {"scale", "unshuffle"}:
        _fill_what_fits(generator, weights, source)
        return
    if differences:
        listing = ", ".join(f"{key} is {theirs} in the file and {ours} here" for key, theirs, ours in differences)
        # ++ also adds what a configuration does not name.
        changes = (as_override("scale" if key == "scale" else f"++generator.{key}", to) for key, to, _ in differences)
        remedy = "generator=rrdb23 or generator=srresnet16" if differences[0][0] == "name" else " ".join(changes)
        raise WeightsError(
            f"{source} holds another architecture: {listing}. Make the network that it was trained with: {remedy}; or "
            "give another file"
        )
    fill(generator, weights.state)
    generator.metadata = weights.metadata


def read_weights(source: str | Path, ema: bool = True, scale: int | None = None) -> Weights:
    """Read architecture, state dict and metadata of what :func:`load_generator` takes, with its arguments."""
    path = Path(source)
    if path.is_file():
        return read_file(path, ema, scale)
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"{path} is a folder without {WEIGHTS}; give a file, or a folder of save_pretrained"
            )
        return read_file(path / WEIGHTS, ema, scale)
    name = str(source).lower()
    if name in releases.RELEASES:
        weights = read_file(releases.fetch(name), ema, scale)
        return weights._replace(metadata={**weights.metadata, **releases.metadata(name)})
    near = difflib.get_close_matches(name, releases.RELEASES, 1)
    hint = f"did you mean {near[0]}?" if near else f"known releases are {', '.join(releases.RELEASES)}"
    raise FileNotFoundError(
        f"{source} is no file, and no release is called so ({hint}); "
        "give a checkpoint (.ckpt), weights (.safetensors, .pth), or the name of a release"
    )


def save_generator(generator: Generator, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a generator's weights as a slim safetensors file: whole, or not at all.

    Args:
        generator: of any class.
        path: must end in ``.safetensors``.
        metadata: further entries for the file's header, beside those of the generator's own file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} does not end in .safetensors; name it {path.with_suffix('.safetensors').name}")
    header = {"architecture": json.dumps(generator.architecture), **generator.metadata, **(metadata or {})}
    # Names of files may be no UTF-8.
    header = {key: value.encode(errors="backslashreplace").decode() for key, value in header.items()}
    state = {key: value.detach().cpu().contiguous() for key, value in generator.state_dict().items()}
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(save(state, header))  # with the usual permissions, unlike save_file


def differing_fields(first: Architecture, second: Architecture) -> list[tuple[str, Any, Any]]:
    """(field, value in the first, value in the second) where two architectures differ."""
    if first.get("name") != second.get("name"):
        return [("name", first.get("name"), second.get("name"))]
    keys = [*first, *(key for key in second if key not in first)]
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def _fill_what_fits(generator: Generator, weights: Weights, source: str | Path) -> None:
    ours = generator.state_dict()
    fitting = {key: value for key, value in weights.state.items() if key in ours and ours[key].shape == value.shape}
    generator.load_state_dict({**ours, **fitting})
    new, unused = ([key for key in names if key not in fitting] for names in (ours, weights.state))
    log.warning(
        "%s is a network of scale %s and this one of %s: %d of %d tensors are taken from it; as initialized are %s; "
        "not used are %s. They have to be trained together",
        *(source, weights.architecture.get("scale"), generator.scale, len(fitting), len(ours)),
        *(", ".join(names) or "none" for names in (new, unused)),
    )
