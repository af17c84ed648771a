"""Compare the configuration of a checkpoint with today's: which settings may be other, and which may not."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from esrgan_lit.overrides import as_override

SCRATCH = "scratch"  # value of `stage.start_from`
RELEASED = "released"  # the same, in a configuration: the release that suits how the pairs are made
ABSENT = "(absent)"
log = logging.getLogger(__name__)

# What cannot be other at a resume: the weights and the optimizers' state are of these.
_FIXED = ("scale", "generator", "stage._target_", "stage.generator", "stage.discriminator")
_FIXED_OPTIMIZERS = ("stage.optimizer._target_", "stage.discriminator_optimizer._target_")
# Where a run writes and reads, and what only begins it.
_PLACES = ("output_dir", "resume", "data_root", "trainer.logger", "trainer.default_root_dir", "stage.start_from")


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that two configurations do not share: dotted key → (theirs, ours).

    A run's own paths count as equal wherever its folder is, and classes wherever their modules are.
    """
    old, new = dict(_flat(theirs)), dict(_flat(ours))
    places = str(old.get("output_dir")), str(new.get("output_dir"))
    found = {}
    for key in old | new:
        pair = old.get(key, ABSENT), new.get(key, ABSENT)
        moved = isinstance(pair[0], str) and pair[0].replace(*places) == pair[1]
        if pair[0] != pair[1] and not moved and not within(key, _PLACES):
            found[key] = pair
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value).rpartition(".")[2] if key == "_target_" else value


def within(key: str, parts: tuple[str, ...]) -> bool:
    """Return whether a dotted key is one of these, or below one."""
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def check_settings(checkpoint: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    """Log the settings that are other than in a checkpoint; they apply from its iteration on.

    Args:
        checkpoint: read from a file.
        settings: of the configuration, resolved.
        path: of the checkpoint, for messages.

    Raises:
        ValueError: for one that cannot be other, with both values and what to do.
    """
    anew = f"begin anew with its weights, {as_override('stage.start_from', path)}, in another folder"
    if fault := first_fixed(checkpoint, settings):
        raise ValueError(f"{path} cannot be resumed: {fault}. Give the first again, or {anew}")
    reached, asked = checkpoint["global_step"], settings["trainer"]["max_steps"]
    if isinstance(asked, int) and 0 <= asked < reached:
        raise ValueError(
            f"trainer.max_steps={asked} is less than the {reached} iterations that {path} has done; give {reached} or "
            f"more, or {anew}"
        )
    changed = differences(checkpoint.get("config") or settings, settings)
    # A release adds and drops settings, which no one has changed; and `crop` sets data.crop, too.
    told = {key: pair for key, pair in changed.items() if ABSENT not in pair}
    told = {key: pair for key, pair in told.items() if "." not in key or told.get(key.rpartition(".")[2]) != pair}
    if told:
        lines = [f"{key}={_short(ours)} (was {_short(theirs)})" for key, (theirs, ours) in told.items()]
        log.warning("from iteration %d on with other settings than before: %s", reached, ", ".join(lines))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}…"


def first_fixed(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return which setting a checkpoint cannot be resumed under, with both values, or None."""
    theirs = checkpoint.get("config") or settings
    for key, (old, new) in differences(theirs, settings).items():
        # What is in one of both only, a release has added or dropped; where it matters, shapes tell.
        fixed = within(key, (*_FIXED, *_FIXED_OPTIMIZERS)) and ABSENT not in (old, new)
        norms = key == "stage.discriminator.batch_norm" and "none" not in (old, new)  # over one rank or over all
        if (fixed and not norms) or (key == "stage.ema_decay" and None in (old, new)):
            return f"{key} was {old} and is {new}"
    before, now = theirs["stage"].get("start_from"), settings["stage"].get("start_from")
    if now not in (None, SCRATCH) and (before is None or Path(before).absolute() != Path(now).absolute()):
        return f"stage.start_from was {before} and is {now}, while the weights are the checkpoint's"
    return None
