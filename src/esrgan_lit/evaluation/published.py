"""Figures that others published, to stand beside ours: ``published.toml``, read."""

import tomllib
from collections.abc import Container, Set
from dataclasses import dataclass
from importlib.resources import files

_FACTS = tomllib.loads(files("esrgan_lit.evaluation").joinpath("published.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Published:
    """One published figure.

    Attributes:
        model: what was measured, and what it was trained on.
        metric: its name in :data:`esrgan_lit.metrics.registry.METRICS`.
        test_set: that it was measured on.
        figure: the number.
        protocol: how it was measured, as far as the source says.
        source: where it stands.
        requires: what a metric's protocol must say to be comparable; "" for nothing more than its name.
    """

    model: str
    metric: str
    test_set: str
    figure: float
    protocol: str
    source: str
    requires: str = ""


PUBLISHED: tuple[Published, ...] = tuple(
    Published(model["name"], metric, test_set, figure, protocol["said"], model["source"], protocol.get("requires", ""))
    for model in _FACTS["models"]
    for metric, protocol in _FACTS["protocols"][model.get("protocol", "bicubic")].items()
    for test_set, figure in model.get(metric, {}).items()
)


@dataclass(frozen=True)
class KnownFiles:
    """The files that a set's published figures were measured on, as far as they are known.

    Attributes:
        images: pairs of the set.
        digests: of pairs, see ``TestSet.digests``; each tuple is a version of the set.
    """

    images: int
    digests: tuple[tuple[str, ...], ...]

    def are(self, found: Set[str], images: int) -> bool:
        """Return whether a set holds these files; of those that are not known there must be as many."""
        return images == self.images and any(found >= set(version) for version in self.digests)


FILES: dict[str, KnownFiles] = {
    name.lower(): KnownFiles(one["images"], tuple(map(tuple, one["digests"]))) for name, one in _FACTS["files"].items()
}

PIRM_REGIONS: tuple[float, ...] = tuple(_FACTS["pirm_regions"])


def published_for(test_set: str, metrics: Container[str], scale: int) -> list[Published]:
    """Return the figures of a test set (its name in any case), of metrics that were measured; all are ×4."""
    return [
        one for one in PUBLISHED if scale == 4 and one.test_set.lower() == test_set.lower() and one.metric in metrics
    ]
