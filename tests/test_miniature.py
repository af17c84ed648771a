"""The paper in miniature: its judgements on made-up figures, its measures, and the whole path, shrunk to seconds."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf
from PIL import Image
from scipy.ndimage import gaussian_filter

from conftest import make_photograph

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import paper_in_miniature as miniature
from paper_in_miniature import ALPHAS, Measured, main

from esrgan_lit.metrics.fidelity import luma

PSNR = dict(zip(ALPHAS, (30.0, 29.9, 29.7, 29.4, 29.0, 28.5), strict=True))


def made_up(worse_images: float = 0.1) -> Measured:
    """Figures with which every claim holds; at equal PSNR the images' NIQE and VGG distance are so much worse."""

    def figures(psnr_y: float, worse: float = 0.0) -> dict[str, float]:
        niqe = 5 + (psnr_y - 28.5)
        return {"psnr_y": psnr_y, "niqe": niqe + worse, "vgg": niqe / 10 + worse, "histogram": 0.2, "brightness": 0.3}

    return Measured(
        bicubic=figures(28.0),
        networks={alpha: figures(psnr) for alpha, psnr in PSNR.items()},
        images={alpha: figures(psnr, worse_images * (0 < alpha < 1)) for alpha, psnr in PSNR.items()},
        brightness={
            layer: (figures(28.5), figures(28.4) | {"histogram": 0.25, "brightness": 0.4})
            for layer in (miniature.LAYER, miniature.SPARSE_LAYER)
        },
    )


def changed(measured: Measured, part: str, key: float | str | None, **figures: float) -> Measured:
    """The same with other figures in one place; of the GAN stages on a layer, of the one before the activation."""
    whole = getattr(measured, part)
    if key is None:
        new = {**whole, **figures}
    elif part == "brightness":
        new = {**whole, key: ({**whole[key][0], **figures}, whole[key][1])}
    else:
        new = {**whole, key: {**whole[key], **figures}}
    return measured._replace(**{part: new})


def test_every_claim_holds_on_figures_that_say_so() -> None:
    for claim, judgement in miniature.CLAIMS.items():
        assert judgement(made_up()).holds, claim


@pytest.mark.parametrize(
    ("number", "part", "key", "figures"),
    [
        (0, "bicubic", None, {"psnr_y": 30.0}),
        (1, "networks", 1.0, {"niqe": 7.0}),
        (1, "networks", 1.0, {"vgg": 0.7}),
        (1, "networks", 1.0, {"psnr_y": 30.1}),
        (1, "networks", 1.0, {"niqe": math.nan}),
        (2, "networks", 0.2, {"psnr_y": 30.01}),
        (2, "networks", 0.6, {"psnr_y": 29.7}),
        (3, "networks", 0.4, {"niqe": 9.0}),
        (3, "networks", 0.4, {"vgg": 2.0}),
        (3, "networks", 0.6, {"psnr_y": 29.8}),
        (4, "brightness", miniature.LAYER, {"histogram": 0.25}),
        (4, "brightness", miniature.LAYER, {"brightness": 0.5}),
        (5, "brightness", miniature.SPARSE_LAYER, {"histogram": 0.25}),
    ],
)
def test_a_claim_falls_with_the_figure_that_it_rests_on(
    number: int, part: str, key: float | str | None, figures: dict[str, float]
) -> None:
    against = changed(made_up(), part, key, **figures)
    holding = [judgement(against).holds for judgement in miniature.CLAIMS.values()]
    assert holding[number] is False


def test_advantage_is_the_mean_difference_at_equal_psnr() -> None:
    networks = {alpha: {"psnr_y": psnr, "niqe": 2 * psnr} for alpha, psnr in PSNR.items()}
    # Images reach less far, and lie 0.5 above the same line.
    images = {alpha: {"psnr_y": psnr + 0.25, "niqe": 2 * (psnr + 0.25) + 0.5} for alpha, psnr in PSNR.items()}
    assert miniature.advantage(networks, images, "niqe") == pytest.approx(0.5)
    assert miniature.advantage(images, networks, "niqe") == pytest.approx(-0.5)
    # Half a triangle of height 1 over the left half of the range: a mean of 1/4.
    ends = {0.0: {"psnr_y": 30.0, "niqe": 1.0}, 1.0: {"psnr_y": 28.0, "niqe": 1.0}}
    bent = {**ends, 1.0: {"psnr_y": 28.0, "niqe": 2.0}, 0.5: {"psnr_y": 29.0, "niqe": 1.0}}
    assert miniature.advantage(ends, bent, "niqe") == pytest.approx(0.25, abs=1e-3)
    # From the highest PSNR on: the rise before it does not count.
    hump = {0.0: {"psnr_y": 29.9, "niqe": 50.0}, **{alpha / 2 + 0.5: row for alpha, row in ends.items()}}
    assert miniature.advantage(ends, hump, "niqe") == pytest.approx(0)
    far = {alpha: {"psnr_y": row["psnr_y"] - 9, "niqe": 1.0} for alpha, row in ends.items()}
    assert math.isnan(miniature.advantage(ends, far, "niqe"))


def test_equally_good_is_good_enough_within_the_tolerance() -> None:
    gap = made_up().networks[0]["niqe"] - made_up().networks[1]["niqe"]
    for worse, holds in ((0.0, True), (-0.1 * miniature.TOLERANCE * gap, True), (-0.5, False)):
        assert miniature.judge_interpolation(made_up(worse)).holds is holds


def photograph(height: int, width: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(make_photograph(height, width, seed)).permute(2, 0, 1)[None] / 255


def test_brightness_equals_scipys_gaussian_and_knows_shifts_from_texture() -> None:
    image, border = photograph(90, 80, 2), miniature.SCALE
    levels = luma(image)[0, 0, border:-border, border:-border].numpy()
    expected = gaussian_filter(levels, miniature.SIGMA, mode="mirror", truncate=3)
    np.testing.assert_allclose(miniature.low_pass(image)[0, 0].numpy(), expected, atol=1e-3)

    histogram, pixels = miniature.brightness_metrics()
    grey = torch.full((1, 3, 90, 80), 100 / 255)
    lighter = grey + 10 / 255
    assert float(histogram(lighter, grey, grey)) == pytest.approx(10 * 219 / 255, rel=1e-5)
    assert float(pixels(lighter, grey, grey)) == pytest.approx(10 * 219 / 255, rel=1e-5)
    texture = 20 / 255 * (torch.arange(90)[:, None] % 2 - 0.5 + 0 * torch.arange(80))
    assert float(pixels(grey + texture, grey, grey)) < 0.2
    mirrored = image.flip(3)
    assert float(histogram(mirrored, image, image)) == pytest.approx(0, abs=1e-4)
    assert float(pixels(mirrored, image, image)) > 1


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """Sixteen photographs just large enough, a test set, and parameters for NIQE."""
    for folder, count in (("photographs", 16), ("more", 2)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            size = (miniature.LEAST, miniature.LEAST + 3)
            Image.fromarray(make_photograph(*size, seed=number)).save(tmp_path / folder / f"{number:02d}.png")
    np.savez(tmp_path / "niqe.npz", mu_pris_param=np.ones((1, 36)), cov_pris_param=np.eye(36))
    tiny = ["trainer.max_steps=2", "trainer.log_every_n_steps=1", "crop=32", "data.batch=2", "generator.blocks=1"]
    tiny += ["generator.width=8"]
    return {
        "--photographs": [f"{tmp_path}/photographs"],
        "--test-images": [f"{tmp_path}/more"],
        "--vgg": ["untrained"],
        "--niqe-parameters": [f"{tmp_path}/niqe.npz"],
        "--seeds": ["3"],
        "--psnr": tiny,
        "--gan": [*tiny, "stage.discriminator.width=4"],
        "--output": [f"{tmp_path}/out"],
    }


def arguments(inputs: dict[str, list[str]]) -> list[str]:
    return [word for name, values in inputs.items() for word in (name, *values)]


@pytest.mark.slow
def test_the_whole_path_and_again(
    inputs: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(inputs))
    out = tmp_path / "out"
    report = (out / "report.md").read_text()
    for number, claim in enumerate(miniature.CLAIMS, 1):
        assert re.search(rf"\| {number}\. {re.escape(claim)} \| (holds|does not hold)", report)
        for place in ("held out", "more"):
            assert f"| {number} | {place} | 3 | " in report
    for picture in ("planes", "crops", "brightness"):
        with Image.open(out / f"{picture}.png") as opened:
            assert min(opened.size) > 100
    assert "stage.perceptual.before_activation=false" in report
    seconds = json.loads((out / "seconds.json").read_text())
    assert set(seconds) == {f"seed_3/{stage}" for stage in miniature.STAGES}
    assert len(list((out / "held_out").iterdir())) == 2
    first = capsys.readouterr().out

    # Given again, it trains nothing and finds the same.
    main(arguments(inputs))
    assert json.loads((out / "seconds.json").read_text()) == seconds
    tables = [text[text.index("| claim") :] for text in (first, capsys.readouterr().out)]
    assert tables[0] == tables[1]

    # Other settings do not go on with what was trained.
    with pytest.raises(SystemExit, match=r"begun with 'width: 8'.*'width: 16'.*name another"):
        main(arguments({**inputs, "--gan": [*inputs["--gan"], "generator.width=16"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--photographs": ["{folder}/more"]}, r"2 of 2 images have 200 pixels.*at least 16"),
        ({"--photographs": ["{folder}/none"]}, r"--photographs: .*none does not exist"),
        ({"--test-images": ["{folder}/small"]}, r"small/a.png is 150×300, and 200×200 are needed"),
        ({"--test-images": ["{folder}/more", "{folder}/photographs/../more"]}, r"two sets would be called 'more'"),
        ({"--vgg": ["none.pth"]}, r"'none.pth' is no file"),
        ({"--niqe-parameters": ["none.npz"]}, r"none.npz is no file"),
        ({"--gan": ["stage.perceptaul.layer=conv2_2"]}, r"GAN stage: .*perceptaul"),
        ({"--seeds": ["-1"]}, r"--seeds: -1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    inputs: dict[str, list[str]], tmp_path: Path, change: dict[str, list[str]], message: str
) -> None:
    (tmp_path / "small").mkdir()
    Image.fromarray(make_photograph(300, 150, 0)).save(tmp_path / "small" / "a.png")
    change = {name: [value.format(folder=tmp_path) for value in values] for name, values in change.items()}
    with pytest.raises(SystemExit, match=message):
        main(arguments({**inputs, **change}))
    assert not (tmp_path / "out").exists()


def test_two_at_once_are_refused(inputs: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(SystemExit, match="another one is at work"):
        main(arguments(inputs))


def test_a_training_that_fails_stops_the_others_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1 fails at once; seed 0, which would take a minute, is asked to save and end."""
    command = tmp_path / "train"
    command.write_text(
        "#!/bin/sh\ncase $1 in fail) until [ -e ready ]; do sleep 0.05; done; echo out of luck; exit 3;; esac\n"
        "trap 'touch saved; exit 0' TERM\ntouch ready\nsleep 60 & wait\n"
    )
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(miniature, "command_path", lambda: str(command))
    config = OmegaConf.create({"trainer": {"max_steps": 2}})
    trainings = [
        miniature.Training(seed, "psnr", tmp_path / f"seed_{seed}" / "psnr", [what], config)
        for seed, what in enumerate(("wait", "fail"))
    ]
    with pytest.raises(miniature.TrainingError, match=r"seed 1, PSNR stage: ended early \(exit code 3\):\nout of luck"):
        miniature.train_all(trainings, 2, tmp_path)
    assert (tmp_path / "saved").exists()
