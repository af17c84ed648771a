"""How programs name a generator's weights, and what else a state dict may be.

The library's own names are BasicSR's. The other names are a table of replacements, written from theirs to ours; the old
layout numbers its layers, so that its last ones depend on how many upsampling steps there are.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from esrgan_lit.networks.generator import UPSAMPLING_STEPS
from esrgan_lit.tensor_files import WeightsError, shown

Architecture = dict[str, Any]
State = dict[str, Tensor]

# Names of the layers in the ESRGAN repository (RRDBNet and SRResNet) and in mmagic (SRResNet), and ours.
_RENAMED = (
    (r"RRDB_trunk\.(\d+)\.RDB([123])\.", r"body.\1.rdb\2."),
    (r"recon_trunk\.(\d+)\.", r"body.\1."),
    (r"trunk_net\.(\d+)\.", r"body.\1."),
    (r"trunk_conv\.", "conv_body."),
    (r"upsample(\d)\.upsample_conv\.", r"upconv\1."),
    (r"HRconv\.", "conv_hr."),
)

# The first layer of every generator that is known, in the old layout and in the others.
FIRST_LAYERS = ("conv_first.weight", "model.0.weight")
_UPSAMPLING = (1, 2, 3, 4)  # numbers of upsampling convolutions, at most
_PARAMETER = r"(weight|bias|running_mean|running_var|num_batches_tracked)$"


def canonical(state: Mapping[str, Tensor]) -> State:
    """Rename a state dict's keys to the library's own; keys of no known layout stay as they are."""
    if "model.0.weight" in state and any(key.startswith("model.1.sub.") for key in state):
        steps = _old_steps(state)
        return {_from_old(key, steps): value for key, value in state.items()}
    renamed = {_rename(key): value for key, value in state.items()}
    if any(".rdb1." in key for key in renamed):  # RRDBNet of the ESRGAN repository; in SRResNet upconv is our name too
        renamed = {re.sub(r"^upconv(\d)\.", r"conv_up\1.", key): value for key, value in renamed.items()}
    return renamed


def in_layout(state: Mapping[str, Tensor], layout: str) -> State:
    """Rename an RRDBNet's keys to those of a layout: ``basicsr``, ``esrgan`` or ``old``."""
    rename = LAYOUTS[layout](state)
    return {rename(key): value for key, value in state.items()}


def infer_architecture(state: Mapping[str, Tensor], scale: int | None = None) -> Architecture:
    """Read the architecture from the shapes of a state dict with the library's own keys.

    One upsampling convolution of an RRDBNet serves ×2 and ×3 alike, in every layout; ×2 is taken, by far the more
    common, unless ``scale`` says otherwise.

    Raises:
        WeightsError: when it is no generator, with what it looks like instead; the message does not name the file.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    dense, plain = shapes.get("body.0.rdb1.conv1.weight", ()), shapes.get("body.0.conv1.weight", ())
    needed = ("conv_first.weight", "conv_hr.weight", "conv_last.weight")
    if 4 not in (len(dense), len(plain)) or not all(len(shapes.get(key, ())) == 4 for key in needed):
        raise WeightsError(_describe_other(shapes))
    if _other_network(shapes):
        raise WeightsError(_describe_other(shapes))
    width, given = shapes["conv_first.weight"][:2]
    channels = shapes["conv_last.weight"][0]
    numbers = {int(found[1]) for key in shapes if (found := re.match(r"body\.(\d{1,9})\.", key))}
    common = {"blocks": 1 + max(numbers), "width": width}
    if len(dense) == 4:
        steps = sum(f"conv_up{number}.weight" in shapes for number in _UPSAMPLING)
        found, unshuffle = _explain(given, channels, steps, scale)
        return {
            "name": "RRDBNet", "scale": found, **common, "growth": dense[0], "channels": given // unshuffle**2,
            "bicubic_skip": False, "unshuffle": unshuffle,
            "out_channels": None if given == channels * unshuffle**2 else channels,
            "plus": "body.0.rdb1.conv1x1.weight" in shapes,
        }  # fmt: skip
    factors = tuple(
        round((shapes[f"upconv{number}.weight"][0] / max(width, 1)) ** 0.5)
        for number in _UPSAMPLING
        if shapes.get(f"upconv{number}.weight")
    )
    found = next((scale for scale, steps in UPSAMPLING_STEPS.items() if steps == factors), None)
    if found is None or given != channels:
        raise WeightsError(
            f"a network of residual blocks that takes {given} channels, gives {channels} and enlarges by "
            f"{' · '.join(map(str, factors)) or 1}; known are SRResNets with as many in as out, "
            f"{', '.join(f'×{scale}' for scale in UPSAMPLING_STEPS)}"
        )
    return {
        "name": "SRResNet", "scale": found, **common, "channels": channels, "batch_norm": "body.0.bn1.weight" in shapes
    }  # fmt: skip


def _explain(given: int, channels: int, steps: int, wanted: int | None) -> tuple[int, int]:
    """Return scale and pixel-unshuffle of an RRDBNet: the most common that explain it, or those of a wanted scale.

    Args:
        given: channels that it takes behind the pixel-unshuffle.
        channels: that it gives.
        steps: of upsampling, each by 2, or a single one by 3.
        wanted: scale, where the user has said it.
    """
    sides = [side for side in (2, 4) if given == channels * side**2]
    enlarged = [2**steps, *([3] if steps == 1 else [])]
    found = [(total // side, side) for total in enlarged for side in (*sides, 1) if total % side == 0]
    return next((each for each in found if each[0] == wanted), found[0])


class _Look(NamedTuple):
    """A network that is none of ours: its name, and a regular expression that one of its keys matches."""

    name: str
    key: str


# In this order: the first that matches names the file. The keys are those of the networks' public implementations.
_LOOKS = (
    _Look("SwinIR, or another transformer of its kind", r"relative_position_(bias_table|index)"),
    _Look("Restormer, or another transformer", r"attn\.(qkv|temperature|q_bias)"),
    _Look("a discriminator (U-Net with spectral normalization, as in Real-ESRGAN)", r"^conv\d\.weight_orig$"),
    _Look("a discriminator (VGG style)", r"^(conv\d_\d|bn\d_\d|linear[12]|classifier\.1)\.weight$"),
    _Look("EDSR, RCAN or another of that family", r"^(head\.0|tail\.0\.0|body\.0\.body\.0)\.weight$"),
    _Look("EDSR, as BasicSR names it", r"^upsample\.0\.weight$"),
    _Look("the SRResNet of the old layout, which has a trunk convolution", r"^model\.1\.sub\.0\.res\."),
)


def _describe_other(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Say what a state dict that is no generator of ours looks like, from its keys and shapes."""
    if not shapes:
        return "no tensors"
    if "features.0.weight" in shapes or any(re.match(r"(features\.)?(layer\d|block\d)\.", key) for key in shapes):
        return _classifier(shapes)
    if (other := _other_network(shapes)) is not None:
        return other
    if any(key.endswith("body.0.rdb1.conv1.weight") or key.endswith("RDB1.conv1.weight") for key in shapes):
        missing = [
            name for name in ("conv_first", "conv_body", "conv_hr", "conv_last") if f"{name}.weight" not in shapes
        ]
        return f"a part of an RRDBNet, without {', '.join(missing)}" if missing else "an unknown form of RRDBNet"
    return f"no network that is known here; it begins with {', '.join(map(shown, list(shapes)[:3]))}"


def _other_network(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    # Compact is a plain chain: convolutions with biases, and between them PReLU's one weight per channel.
    chain = [shapes.get(f"body.{number}.weight", ()) for number in (0, 1, 2)]
    if [len(shape) for shape in chain] == [4, 1, 4]:
        return "SRVGGNetCompact (realesr-general, realesr-animevideo), which is no ESRGAN generator"
    return next((look.name for look in _LOOKS if any(re.search(look.key, key) for key in shapes)), None)


def _classifier(shapes: Mapping[str, tuple[int, ...]]) -> str:
    first = shapes.get("features.0.weight", ())
    convolutions = [shape for key, shape in shapes.items() if key.startswith("features.") and len(shape) == 4]
    if any(shape[-1] == 4 for shape in convolutions):
        return "a discriminator (VGG style, this library's)"
    if len(first) == 4 and first[0] == 64 and first[1] == 3 and first[-1] == 3:
        return f"a VGG ({len(convolutions)} convolutions), which the perceptual loss uses"
    return "a network for classification"


# Renaming


def _rename(key: str) -> str:
    for pattern, ours in _RENAMED:
        key = re.sub(f"^{pattern}", ours, key)
    return key


def _old_steps(state: Mapping[str, Tensor]) -> int:
    """Return the upsampling steps of a state dict in the old layout, whose last layer is number 4 + 3 · steps."""
    numbers = (re.match(rf"model\.(\d{{1,9}})\.{_PARAMETER}", key) for key in state)
    return (max((int(number[1]) for number in numbers if number), default=0) - 4) // 3


def _from_old(key: str, steps: int) -> str:
    names = {"0": "conv_first", str(2 + 3 * steps): "conv_hr", str(4 + 3 * steps): "conv_last"}
    names |= {str(3 * number): f"conv_up{number}" for number in _UPSAMPLING[: max(steps, 0)]}
    key = re.sub(r"^model\.1\.sub\.(\d+)\.RDB([123])\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3.", key)
    key = re.sub(r"^model\.1\.sub\.(\d+)\.RDB([123])\.conv1x1\.", r"body.\1.rdb\2.conv1x1.", key)
    key = re.sub(r"^model\.1\.sub\.(\d+)\.(weight|bias)$", r"conv_body.\2", key)
    return re.sub(r"^model\.(\d+)\.(weight|bias)$", lambda at: f"{names.get(at[1], at[1])}.{at[2]}", key)


def _to_old(state: Mapping[str, Tensor]) -> Callable[[str], str]:
    steps = sum(f"conv_up{number}.weight" in state for number in _UPSAMPLING)
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("body."))
    numbers = {"conv_first": 0, "conv_hr": 2 + 3 * steps, "conv_last": 4 + 3 * steps}
    numbers |= {f"conv_up{number}": 3 * number for number in range(1, steps + 1)}

    def rename(key: str) -> str:
        name, parameter = key.rsplit(".", 1)
        if name == "conv_body":
            return f"model.1.sub.{blocks}.{parameter}"
        if name in numbers:
            return f"model.{numbers[name]}.{parameter}"
        key = re.sub(r"^body\.(\d+)\.rdb(\d)\.(conv\d)\.", r"model.1.sub.\1.RDB\2.\3.0.", key)
        return re.sub(r"^body\.(\d+)\.rdb(\d)\.conv1x1\.", r"model.1.sub.\1.RDB\2.conv1x1.", key)

    return rename


def _to_esrgan(key: str) -> str:
    key = re.sub(r"^body\.(\d+)\.rdb(\d)\.", r"RRDB_trunk.\1.RDB\2.", key)
    key = key.replace("conv_body.", "trunk_conv.").replace("conv_hr.", "HRconv.")
    return re.sub(r"^conv_up(\d)\.", r"upconv\1.", key)


LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], Callable[[str], str]]] = {
    "basicsr": lambda state: lambda key: key,
    "esrgan": lambda state: _to_esrgan,
    "old": _to_old,
}
