"""A wrong override is said in one line with what was meant, and what is said composes."""

import re
import shlex
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from esrgan_lit.cli.check_overrides import check_overrides


def read_back(override: str) -> Any:
    [word] = shlex.split(override)
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    ("config", "typed", "meant"),
    [
        ("train", "trainer.max_step=5", "trainer.max_steps=5"),
        ("train", "max_steps=5", "trainer.max_steps=5"),
        ("train", "lr=1e-3", "stage.optimizer.lr=1e-3"),
        ("train", "data.trian=[x]", "data.train=[x]"),
        ("train", "zzzz=1", None),
        ("train", "generator.block=3", "generator.blocks=3"),
        ("train", "hydra.run.dirr=x", "hydra.run.dir=x"),
        ("train", "experiment=gan_rrdb23", "+experiment=gan_rrdb23"),
        ("train", "experimnt=gan_rrdb23", "+experiment=gan_rrdb23"),
        ("train", "+experiment=gan_rrdb", "+experiment=gan_rrdb23"),
        ("train", "stage=gann", "stage=gan"),
        ("train", "+stage=gan", "stage=gan"),
        ("train", "stage/schedular=plateau", "stage/scheduler=plateau"),
        ("train", "stage/scheduler=platau", "stage/scheduler=plateau"),
        ("train", "hydra/launcher=jobib", "hydra/launcher=joblib"),
        ("train", "+crop=96", "crop=96"),
        ("train", "~cropp", "~crop"),
        ("train", "trainer=null", None),
        ("evaluate", "weight=x.pth", "weights=x.pth"),
        ("evaluate", "+benchmark=set55", "+benchmark=set5"),
    ],
)
def test_what_was_meant(config: str, typed: str, meant: str | None) -> None:
    with pytest.raises(ValueError, match=re.escape(typed)) as raised:
        check_overrides(["seed=1", typed] if config == "train" else [typed], config)
    message = str(raised.value)
    assert "\n" not in message
    found = re.search(r"did you mean (\S+)\?$", message)
    assert [found[1].strip("'")] == [meant] if found else meant is None
    if meant is not None:
        with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
            assert OmegaConf.is_config(compose(config, [meant]))


@pytest.mark.parametrize("argument", ["crop", "data.train"])
def test_an_override_without_a_value(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is no override; give {argument}=VALUE"):
        check_overrides([argument], "train")


def test_sweeps() -> None:
    check_overrides(["-m", "seed=1,2", "stage=psnr,gan", "hydra/launcher=joblib", "+experiment=glob(gan*)"], "train")
    with pytest.raises(ValueError, match=r"stage=gann .*did you mean stage=gan\?"):
        check_overrides(["-m", "seed=1,2", "stage=psnr,gann"], "train")
    with pytest.raises(ValueError, match=r"crop=64,128 is a sweep; add -m .*'crop=\[64,128\]'"):
        check_overrides(["crop=64,128"], "train")


def test_options_that_print_are_left_to_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_overrides(["--cfg", "job", "trainer.max_step=5"], "train")
    check_overrides(["--config-dir", "mine", "+experiment=mine"], "train")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    check_overrides(["trainer.max_step=5"], "train")


@pytest.mark.parametrize("text", ["[my photos(1)]", "[a=b]", "[é]", "[a b,c=d]", "my (photos)=x", "it's"])
def test_text_that_needs_quotes_is_shown_with_them(text: str) -> None:
    with pytest.raises(ValueError, match="has quotes of its own: ") as raised:
        check_overrides(["--cfg", "job", f"data.train={text}"], "train")
    shown = str(raised.value).split("of its own: ")[1]
    check_overrides(shlex.split(shown), "train")
    assert read_back(shown) == (text[1:-1].split(",") if text.startswith("[") else text)


@pytest.mark.parametrize("key", ["data.train", "data.validation"])
def test_photographs_of_ones_own_in_an_experiment_of_the_demos(key: str) -> None:
    command = ["+experiment=quickstart_psnr", f"{key}=[my,more]"]
    with pytest.raises(ValueError, match=rf"add data=folder: data=folder '{key}=\[my,more\]'"):
        check_overrides(command, "train")
    check_overrides([*command, "data=folder"], "train")
    check_overrides(["+experiment=finetune", *command[1:]], "train")
    check_overrides(
        [
            "-m",
            "+experiment=quickstart_psnr",
            "seed=1,2",
            "crop=range(64,129,step=64)",
            f"{key}=[photos]",
            "data=folder",
        ],
        "train",
    )
