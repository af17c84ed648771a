"""Find a generator in what a file holds: under whatever names, and in whatever dictionaries, programs put it there."""

import json
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from esrgan_lit.networks import rrdbnet, srresnet  # noqa: F401 (a file may name their classes)
from esrgan_lit.networks.building import build_within
from esrgan_lit.networks.generator import Generator
from esrgan_lit.tensor_files import WeightsError, find_misfit, open_tensors, shown, usable
from esrgan_lit.weights.layouts import FIRST_LAYERS, Architecture, State, canonical, infer_architecture
from esrgan_lit.weights.origin import describe

_REMEDY = "Give a checkpoint of this library, or the weights of an RRDBNet (ESRGAN) or of an MSRResNet"
_AVERAGED = re.compile(r"(^|[._-])(ema|averaged|swa|shadow)([._-]|$)", re.IGNORECASE)
_GENERATOR = re.compile(r"(^|[._-])(g|gen|generator|net_?g)([._-]|$)", re.IGNORECASE)
_DEEPEST = 12  # dictionaries in dictionaries that are looked through; checkpoints have two or three
_MOST = 20  # places that are tried; checkpoints have one or two
# What the names of generators' layers begin with, in all layouts.
_PARTS = ("body.", "conv_", "upconv", "model.", "RRDB_trunk.", "trunk_", "recon_trunk.")
log = logging.getLogger(__name__)


class UnknownNetworkError(WeightsError):
    """A file whose tensors are of no generator that is known here; other programs may know them."""


class Weights(NamedTuple):
    """A generator as a file holds it.

    Attributes:
        network: without memory for its weights (on the meta device).
        state: tensors by the library's own names, in float32, on the CPU; they fit the network.
        metadata: what the file says of its origin, such as training data, steps and license.
    """

    network: Generator
    state: State
    metadata: dict[str, str]

    @property
    def architecture(self) -> Architecture:
        """The class's name and its constructor's arguments."""
        return self.network.architecture


def build_generator(architecture: Mapping[str, Any], tensors: int) -> Generator:
    """Build a generator from its ``architecture``, without memory for its weights.

    Classes of other packages are found where they were imported before: a file of weights imports nothing.

    Args:
        architecture: the class's name and its constructor's arguments.
        tensors: how many there are for it; a network with more of them is not built.

    Raises:
        WeightsError: when there is no such class, or it does not take these arguments; without the file's name.
    """
    arguments = dict(architecture)
    name = str(arguments.pop("name", None))
    known = known_generators()
    if name not in known:
        module = name.rpartition(".")[0]
        remedy = (
            f"import its module first (import {shown(module)}), or give the command --import {shown(module)}, if you "
            "trust it"
            if module
            else f"known are {', '.join(sorted(known, key=lambda one: ('.' in one, one)))}"  # ours first
        )
        raise WeightsError(f"architecture {shown(name)!r} is not known; {remedy}")
    try:
        return build_within(lambda: known[name](**{str(key): value for key, value in arguments.items()}), tensors)
    except WeightsError as error:
        raise WeightsError(f"architecture {shown(dict(architecture), 300)} cannot be built: {error}") from error


def known_generators() -> dict[str, type[Generator]]:
    """Return the classes that files may name: this library's, and those of users' modules that were imported."""

    def subclasses(kind: type[Generator]) -> Iterator[type[Generator]]:
        for subclass in kind.__subclasses__():
            yield subclass
            yield from subclasses(subclass)

    return {subclass.architecture_name: subclass for subclass in subclasses(Generator)}


def read_file(path: Path, ema: bool = True, scale: int | None = None) -> Weights:
    """Read a generator's weights.

    Args:
        path: the file.
        ema: averaged weights where the file has both, rather than the last ones.
        scale: magnification, where the file leaves it open: one upsampling layer of an RRDBNet may be ×2 or ×3.

    Raises:
        WeightsError: when it holds no generator, with what it looks like instead; or one of another scale.
    """
    content, header, held = open_tensors(path)
    content = _as_mapping(content)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not weights; give a state dict or a checkpoint")
    tensors = _flatten(content)
    if not tensors:
        raise WeightsError(f"{path} holds no tensors. {_REMEDY}")
    declared = _declared(path, content, header)
    own = None
    if declared is not None:
        try:
            own = build_generator(declared, len(tensors))
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
    place, network, state = _choose(path, tensors, own, ema, scale)
    if scale is not None and network.scale != scale:
        raise WeightsError(f"{path} enlarges {network.scale} times, not {scale} times; leave the scale out")
    state = usable({key: state[key] for key in network.state_dict() if key in state}, held, path)
    measured = _is_averaged(place) or not any(map(_is_averaged, _places(tensors, own)))
    return Weights(network, state, describe(content, header, measured))


class _Entry(NamedTuple):
    """A tensor, and the dictionary that it stands in."""

    tensor: Tensor
    home: str


def _flatten(content: Mapping[Any, Any]) -> dict[str, _Entry]:
    """Return all tensors of dictionaries in dictionaries, by their keys joined with points; each dictionary once."""
    found: dict[str, _Entry] = {}
    queue: deque[tuple[str, int, Mapping[Any, Any]]] = deque([("", 0, content)])
    seen = {id(content)}
    while queue:
        home, depth, mapping = queue.popleft()
        for key, value in mapping.items():
            if not isinstance(key, str | int):
                continue
            name = f"{home}{key}"
            if isinstance(value, Tensor):
                # compiled networks, or parts of them, have names of their own
                found.setdefault(re.sub(r"(^|(?<=\.))_orig_mod\.", "", name), _Entry(value, home))
            elif isinstance(inside := _as_mapping(value), Mapping) and depth < _DEEPEST and id(value) not in seen:
                seen.add(id(value))
                queue.append((f"{name}.", depth + 1, inside))
    return found


def _as_mapping(value: Any) -> Any:
    """Return a list that has dictionaries in it as a dictionary; anything else as it is."""
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value[:_MOST]):
        return dict(enumerate(value[:_MOST]))
    return value


def _declared(path: Path, content: Mapping[Any, Any], header: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the architecture that a file names, if it is one of this library's or of a user's class."""
    architecture = header.get("architecture") or content.get("architecture")
    if isinstance(architecture, str):
        try:
            architecture = json.loads(architecture)
        except (ValueError, RecursionError):
            return None
    if not isinstance(architecture, Mapping) or not isinstance(name := architecture.get("name"), str):
        return None
    known = known_generators()
    theirs = "." in name and name.rpartition(".")[2] not in known  # a user's, whose module has to be imported
    if name in known or theirs:
        return {str(key): value for key, value in architecture.items()}
    log.warning("%s: architecture %s is not known here; it is read from the shapes", path, shown(name))
    return None


def _choose(
    path: Path, tensors: Mapping[str, _Entry], own: Generator | None, ema: bool, scale: int | None
) -> tuple[str, Generator, State]:
    """Return the generator that is meant: what its tensors' names begin with in the file, itself, its tensors.

    Args:
        path: of the file, for messages.
        tensors: all that are in the file.
        own: what the file says that it is, or None.
        ema: averaged weights rather than the last ones.
        scale: that is asked for.
    """
    places = _places(tensors, own)
    places.sort(key=lambda place: (_is_averaged(place) != ema, not _GENERATOR.search(place)))
    found: dict[str, tuple[Generator, State]] = {}
    refusals = []
    for place in places[:_MOST]:
        if found and _is_averaged(place) != _is_averaged(next(iter(found))):
            continue  # averaged or not was the user's choice
        state = {key.removeprefix(place): entry.tensor for key, entry in tensors.items() if key.startswith(place)}
        try:
            found[place] = _fit(state, own, scale)
        except WeightsError as error:
            refusals.append(str(error))
    if not found:
        raise UnknownNetworkError(f"{path} holds {refusals[0] if refusals else _look(tensors)}. {_REMEDY}")
    place, *others = found
    network, state = found[place]
    if others:
        named = [shown(one.rstrip(".") or "what stands outside") for one in (place, *others)]
        log.warning("%s holds several generators: %s is read, not %s", path, named[0], ", ".join(named[1:]))
    home = next(entry.home for key, entry in tensors.items() if key.startswith(place))
    beside = {key: entry.tensor for key, entry in tensors.items() if key.startswith(place) and entry.home == home}
    named = _by_our_names({key.removeprefix(place): tensor for key, tensor in beside.items()}, own)
    _warn_of_extra(path, [key for key in named if key not in network.state_dict()], network)
    return place, network, state


def _places(tensors: Mapping[str, _Entry], own: Generator | None) -> list[str]:
    """Return what stands before the names of generators in the file: where a first layer is."""
    first = FIRST_LAYERS if own is None else (*FIRST_LAYERS, next(iter(own.state_dict())))
    found = re.compile(rf"(.*[^A-Za-z0-9])?({'|'.join(map(re.escape, first))})", re.DOTALL)
    return list(dict.fromkeys(match[1] or "" for key in tensors if (match := found.fullmatch(key))))


def _is_averaged(place: str) -> bool:
    return bool(_AVERAGED.search(place))


def _by_our_names(state: State, own: Generator | None) -> State:
    """Return tensors by the library's names; those of a user's class have their own."""
    return state if own is not None and "." in own.architecture_name else canonical(state)


def _fit(state: State, own: Generator | None, scale: int | None) -> tuple[Generator, State]:
    """Return the network that tensors belong to, and the tensors by its names; WeightsError where there is none."""
    state = _by_our_names(state, own)
    network = own
    if network is None:
        network = build_generator(infer_architecture(state, scale), len(state))
    if misfit := find_misfit(network, state):
        if own is None:
            raise WeightsError(f"an {network.architecture_name} with other tensors than it needs: {misfit}")
        raise WeightsError(f"another network than it says ({shown(own.architecture, 300)}): {misfit}")
    return network, state


def _warn_of_extra(path: Path, extra: list[str], network: Generator) -> None:
    """Warn of tensors that a network has no place for; refuse those in its own parts, which make it another network."""
    inside = [key for key in extra if key.startswith(_PARTS)]
    if inside:
        raise UnknownNetworkError(
            f"{path} holds an unknown form of {network.architecture_name}: it has {shown(inside[0])}"
            + f" and {len(inside) - 1} more such tensors" * (len(inside) > 1)
            + f", without which its images would be others. {_REMEDY}"
        )
    if extra:
        named = ", ".join(map(shown, extra[:5])) + f" and {len(extra) - 5} more" * (len(extra) > 5)
        log.warning("%s: not part of the generator and left out: %s", path, named)


def _look(tensors: Mapping[str, _Entry]) -> str:
    """Say what tensors look like in which there is no generator."""
    state = {key: entry.tensor for key, entry in tensors.items()}
    common = r"(params|params_ema|state_dict|model_state_dict|model|module|generator|net_?[gGdD]|discriminator)\."
    while state and all(re.match(common, key) for key in state):
        state = {re.sub(f"^{common}", "", key): value for key, value in state.items()}
    try:
        infer_architecture(canonical(state))
    except WeightsError as error:
        return str(error)
    return "no network that is known here"
