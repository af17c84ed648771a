"""Every key of a composed configuration, given what it cannot be: one line that names it, before images are decoded."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from esrgan_lit import PairDataModule
from esrgan_lit.metrics.metric import MetricUnavailableError
from esrgan_lit.training.trainer import prepare

WRONG = {
    "text": "a b(c",
    "negative": -7,
    "fraction": 0.37,
    "null": None,
    "list": [[]],
    "mapping": {"x": {}},
    "infinite": float("inf"),
}
# What is composed, and the keys that are tried: what stands beside the stage is the same in both.
COMPOSED = {
    "psnr_rrdb23": ("stage", []),
    "gan_rrdb23": ("", []),
    "psnr_rrdb23 degraded": ("data.degradation", ["degradation=realesrgan"]),
}


def leaves(node: Any, above: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("composed", COMPOSED)
def test_every_key(
    configure: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, composed: str, wrong: str
) -> None:
    monkeypatch.setattr(PairDataModule, "setup", lambda self, stage: None)
    below, overrides = COMPOSED[composed]
    config = configure(composed.split(" ")[0], *overrides)
    keys = [key for key in leaves(OmegaConf.to_container(config)) if key.startswith(below)]
    assert len(keys) > 10
    faults = {}
    for key in keys:
        trial = config.copy()
        try:
            OmegaConf.update(trial, key, WRONG[wrong], merge=False)
            prepare(trial)
        except (ValueError, OSError, MetricUnavailableError) as error:
            if "\n" in str(error):
                faults[key] = str(error)
        except Exception as error:
            faults[key] = repr(error)
    assert not faults, "\n".join(f"{key}: {fault}" for key, fault in faults.items())
