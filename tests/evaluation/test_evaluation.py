"""``esrgan-evaluate``: what it is given, what it computes, what it remembers, and what it writes."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

from conftest import assert_same_levels, assert_stands_alone, make_photograph
from esrgan_lit import RRDBNet, imresize, load_generator, psnr_y, save_generator, ssim_y
from esrgan_lit.cli import evaluate_run as command
from esrgan_lit.data.pairing import normalized
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.evaluation import evaluate, methods
from esrgan_lit.evaluation.published import PUBLISHED, published_for
from esrgan_lit.evaluation.test_sets import TestSet, open_sets
from esrgan_lit.images.levels import to_batch, to_image
from esrgan_lit.images.reading import read_image
from esrgan_lit.images.writing import save_image
from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.back_projection import BackProjection
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.metrics.registry import METRICS, make_metric
from esrgan_lit.reports.evaluation import SetReport, as_markdown, protocols
from esrgan_lit.reports.plots import crops_of_difference
from esrgan_lit.weights import releases
from esrgan_lit.weights.layouts import WeightsError

RUNNER = methods.Runner(4, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A set with truths (one grey, one no multiple of 4) and low-resolution images, as data sets name them."""
    folder = tmp_path / "Set5"
    for number, (name, size) in enumerate({"a": (64, 80), "b_c": (61, 70), "grey": (72, 64)}.items()):
        image = make_photograph(*size, seed=number)
        height, width = (side // 4 * 4 for side in size)
        save_image(imresize(image[:height, :width], 1 / 4), folder / "LR" / f"{name}x4.png")
        (folder / "HR").mkdir(exist_ok=True)
        Image.fromarray(image).convert("L" if name == "grey" else "RGB").save(folder / "HR" / f"{name}.png")
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """Save a small network; with ``spoil``, one whose output is not finite."""

    def save(name: str, seed: int = 0, spoil: bool = False, **arguments: int) -> Path:
        torch.manual_seed(seed)
        network = RRDBNet(**{"scale": 4, "blocks": 1, "width": 8, "growth": 4, **arguments}, bicubic_skip=True)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            if spoil:
                for parameter in network.parameters():  # finite themselves, or they would be refused
                    parameter.fill_(1e30)
        path = tmp_path / "weights" / f"{name}.safetensors"
        save_generator(network, path)
        return path

    return save


def composed(tmp_path: Path, *overrides: str) -> DictConfig:
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        return compose("evaluate", [f"output_dir={tmp_path}/out", "metrics.names=[psnr_y,ssim_y,rmse]", *overrides])


def opened(folder: Path, **more: object) -> TestSet:
    return open_sets({"mine": {"hr": folder / "HR", **more}}, Bicubic(4), ".")[0]


def test_the_whole_of_it(folders: Path, weights: Callable[..., Path], tmp_path: Path) -> None:
    """Bicubic, two networks, their sweep and finished images, against low-resolution images that are given."""
    for path in (folders / "HR").iterdir():
        save_image(read_image(path), tmp_path / "theirs" / f"{path.stem}_THEIRS_x4.png")
    psnr, gan = weights("psnr", 1), weights("gan", 2)
    config = composed(
        tmp_path,
        f"hr={folders}/HR",
        f"lr={folders}/LR",
        f"weights={{mine: {psnr}}}",
        f"images={tmp_path}/theirs",
        f"sweep.psnr={psnr}",
        f"sweep.gan={gan}",
        "sweep.alphas=[0,0.5,1]",
        "crop=16",
    )
    out = command.run(config, command.prepare(config))

    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["set"] for row in rows} == {"Set5"}
    values = {(row["image"], row["method"], row["metric"]): float(row["value"]) for row in rows}
    names = ["bicubic", "mine", "α = 0", "α = 0.5 (networks)", "α = 0.5 (images)", "α = 1", "theirs"]
    assert list(dict.fromkeys(row["method"] for row in rows)) == names
    assert all(row["protocol"] and row["low_resolution"] for row in rows)
    for image in ("a", "b_c"):
        truth, low_res = read_image(folders / "HR" / f"{image}.png"), read_image(folders / "LR" / f"{image}x4.png")
        covered = truth[: truth.shape[0] // 4 * 4, : truth.shape[1] // 4 * 4]
        pair = to_batch(imresize(low_res, 4)), to_batch(covered)
        assert values[image, "bicubic", "psnr_y"] == pytest.approx(psnr_y(*pair, 4).item(), rel=1e-12)
        assert values[image, "bicubic", "ssim_y"] == pytest.approx(ssim_y(*pair, 4).item(), rel=1e-12)
    for method in names:
        singles = [values[image, method, "psnr_y"] for image in ("a", "b_c", "grey")]
        assert values["", method, "psnr_y"] == pytest.approx(np.mean(singles))
        rmse = [values[image, method, "rmse"] ** 2 for image in ("a", "b_c", "grey")]
        assert values["", method, "rmse"] == pytest.approx(np.sqrt(np.mean(rmse)))
        assert values["a", "mine", "psnr_y"] == values["a", "α = 0", "psnr_y"]
    assert values["a", "theirs", "psnr_y"] == np.inf
    assert values["a", "α = 0.5 (networks)", "psnr_y"] != values["a", "α = 0.5 (images)", "psnr_y"]

    text = (out / "results.md").read_text(encoding="utf-8")
    assert "4 border pixels shaved" in text
    assert "Published figures of Set5 are left out: they are of 5 pairs, and here are 3." in text
    assert "28.42" not in text
    assert "ground truth cropped from 70×61 to 68×60" in text
    for image in ("a", "b_c", "grey"):
        with Image.open(out / "pictures" / f"Set5_{image}.png") as picture:
            assert min(picture.size) > 300
    check_page(out / "index.html", names, 3)


def check_page(path: Path, names: list[str], count: int) -> None:
    assert_stands_alone(path)
    images = page_images(path)
    assert len(images) == count
    for image in images:
        assert [method["name"] for method in image["methods"]] == ["ground truth", *names]
        assert all(method["address"].startswith("data:image/webp;base64,") for method in image["methods"])
        assert image["crops"]


def page_images(path: Path) -> list[dict[str, Any]]:
    """The images that the slider of a page has."""
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    return json.loads(data)


def test_a_sets_own_bicubic_has_the_published_figures(testsets: Path, tmp_path: Path) -> None:
    config = composed(tmp_path, "+benchmark=set5", f"data_root={testsets}", "metrics.names=[psnr_y]")
    plan = command.prepare(config)
    results = evaluate.evaluate(plan.sets, plan.methods, plan.metrics, tmp_path / "cache", 2)
    report = SetReport(plan.sets[0], results, plan.metrics)
    published = next(row for row in report.literature if row.model == "bicubic")
    assert published.figure == 28.42
    assert report.figures["bicubic"][published.metric] == pytest.approx(28.42, abs=0.02)
    assert "| bicubic | PSNR-Y (dB) | 28.42 | 28.43 (+0.01) |" in as_markdown([report], {}, {})


@pytest.mark.parametrize(("change", "said"), [("border=0", "another protocol"), ("low_res", "of other pixels")])
def test_published_figures_stand_beside_the_same_protocol_and_pixels(
    change: str, said: str, testsets: Path, tmp_path: Path
) -> None:
    for path in (testsets / "Set5").rglob("*.png"):  # other names and compression are the same pixels
        image = read_image(path)
        if change == "low_res" and path.stem.startswith("bird") and path.parent.name != "HR":
            image = image ^ 1
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / path.parent.name / f"{path.stem}_HR.png", compress_level=1)
    overrides = ["sets.Set5.border=0"] if change == "border=0" else []

    def report(*more: str) -> SetReport:
        given = f"sets={{Set5: {{hr: {tmp_path}/HR, lr: {tmp_path}/LRbicx4, border: null}}}}"
        plan = command.prepare(composed(tmp_path, given, "metrics.names=[psnr_y]", *more))
        return SetReport(
            plan.sets[0], evaluate.evaluate(plan.sets, plan.methods, plan.metrics, tmp_path, 2), plan.metrics
        )

    if change == "border=0":
        assert report().literature
        assert report().literature_remark == ""
    changed = report(*overrides)
    assert changed.literature == []
    assert said in changed.literature_remark


def test_a_set_under_several_degradations_has_mean_and_worst(folders: Path, tmp_path: Path) -> None:
    root = tmp_path / "data" / "Set14_SE"
    shutil.copytree(folders / "HR", root / "HR")
    for name, shade in (("deg_0", 0), ("deg_10", 40), ("deg_2", 20)):
        for path in (folders / "LR").iterdir():
            save_image(np.maximum(read_image(path), shade), root / name / path.name)
            save_image(imresize(read_image(path), 4), tmp_path / "theirs" / "Set14_SE" / name / path.name)
    config = composed(tmp_path, "+benchmark=set14_se", f"data_root={tmp_path}/data", f"images={tmp_path}/theirs")
    out = command.run(config, command.prepare(config))
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = {(row["image"], row["method"], row["metric"]): float(row["value"]) for row in rows}
    means = [
        np.mean([values[f"{name}/{image}", "bicubic", "psnr_y"] for image in ("a", "b_c", "grey")])
        for name in ("deg_0", "deg_2", "deg_10")
    ]
    assert all("no border shaved" in row["protocol"] for row in rows)
    truth, low_res = read_image(folders / "HR" / "a.png"), read_image(root / "deg_10" / "ax4.png")
    expected = psnr_y(to_batch(imresize(low_res, 4)), to_batch(truth), 0).item()
    assert values["deg_10/a", "bicubic", "psnr_y"] == pytest.approx(expected, rel=1e-12)
    lines = (out / "results.md").read_text(encoding="utf-8").splitlines()
    heading = next(line for line in lines if line.startswith("| method"))
    assert heading.startswith("| method | PSNR-Y (dB) ↑ | worst PSNR-Y (dB) ↑ |")
    first = next(line for line in lines if line.startswith("| bicubic | "))
    assert first.startswith(f"| bicubic | {np.mean(means):.2f} | {min(means):.2f} |")
    degradations = [line.split(" | ")[0] for line in lines if " | bicubic | " in line and line.startswith("| deg_")]
    assert degradations[:3] == ["| deg_0", "| deg_2", "| deg_10"]
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "Each degradation" in text
    assert len(page_images(out / "index.html")) == 9


def test_the_users_border_holds_for_every_set(folders: Path, tmp_path: Path) -> None:
    sets = f"sets={{one: {{hr: {folders}/HR, border: 0}}, two: {{hr: {folders}/HR}}}}"

    def said(*more: str) -> list[str]:
        plan = command.prepare(composed(tmp_path, sets, "metrics.names=[psnr_y]", *more))
        results = evaluate.evaluate(plan.sets, plan.methods, plan.metrics, tmp_path / "cache", 1)
        reports = [SetReport(one, results, plan.metrics) for one in plan.sets]
        shown = protocols(reports)
        first, second = (report.figures["bicubic"]["psnr_y"] for report in reports)
        assert (first == second) is (len(shown) == 1)
        return [f"{title}: {protocol.rsplit(', ', 1)[1]}" for title, protocol in shown.items()]

    assert said() == ["PSNR-Y (dB), one: no border shaved", "PSNR-Y (dB), two: 4 border pixels shaved"]
    assert said("metrics.border=6") == ["PSNR-Y (dB): 6 border pixels shaved"]


@pytest.mark.parametrize("name", ["realsr", "drealsr", "set14_se"])
def test_a_set_that_only_hands_can_lay_out_says_where(name: str, tmp_path: Path) -> None:
    config = composed(tmp_path, f"+benchmark={name}", f"data_root={tmp_path}/data")
    with pytest.raises(ValueError, match=rf"is not in {tmp_path}/data.*\(https.*{tmp_path}/data/\S+/\S+ and .*, or "):
        command.prepare(config)
    ((title, setting),) = config.sets.items()
    for layout in setting.layouts:  # each of them is found
        for part in (layout.hr, layout.lr):
            side = 32 if part == layout.hr else 8
            save_image(make_photograph(side, side, 0), tmp_path / "data" / part.replace("*", "7") / "one.png")
        (case,) = command.prepare(config).sets[0].cases
        assert case.high_res == tmp_path / "data" / layout.hr / "one.png"
        shutil.rmtree(tmp_path / "data")
    hr, lr = tmp_path / "own" / "h", tmp_path / "own" / "l"
    save_image(make_photograph(32, 32, 0), hr / "one.png")
    save_image(make_photograph(8, 8, 0), lr / "one.png")
    with pytest.raises(ValueError, match=f"{title} is of pairs, and only lr is given"):
        command.prepare(composed(tmp_path, f"+benchmark={name}", f"sets.{title}.lr={lr}"))
    own = composed(tmp_path, f"+benchmark={name}", f"sets.{title}.hr={hr}", f"sets.{title}.lr={lr}")
    assert command.prepare(own).sets[0].cases[0].low_res == lr / "one.png"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("metrics=niqe", "metrics='?niqe'? does not fit"),
        ("metrics.names=psnr_y", "metrics.names='?psnr_y'? does not fit"),
        ("metrics.border=wide", "metrics.border='?wide'? does not fit; give a whole number"),
        ("sets=[a]", r"sets=.* does not fit"),
        ("sets={mine: photos}", "sets.mine='?photos'? does not fit"),
        ("sweep=a", "sweep='?a'? does not fit"),
        ("sweep.alphas=0.5", "sweep.alphas=0.5 does not fit"),
        ("weights=3", "weights=3 does not fit"),
        ("scale=four", "scale='?four'? does not fit; give a whole number"),
        ("page_megabytes=many", "page_megabytes='?many'? does not fit"),
        ("crops=0", "crops=0 is not positive; give 1 or more"),
        ("workers=-1", "workers=-1 is not positive"),
    ],
)
def test_values_of_another_kind_are_said_in_one_line(override: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        command.prepare(composed(tmp_path, override))
    assert "\n" not in str(caught.value)


def test_wrong_borders_and_patterns_are_said(folders: Path, tmp_path: Path) -> None:
    def refused(setting: str, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            command.prepare(composed(tmp_path, f"sets={{mine: {{hr: {folders}/HR, {setting}}}}}"))

    refused("border: -1", "sets.mine.border is -1; give whole pixels")
    refused("border: wide", "sets.mine.border is 'wide'")
    refused(f"lr: {folders}/deg_*", "no folder is called .*deg_")


@pytest.mark.parametrize("benchmark", sorted(p.stem for p in (Path(__file__).parents[2] / "conf/benchmark").iterdir()))
def test_every_benchmark_names_a_set_of_the_catalogue(benchmark: str, tmp_path: Path) -> None:
    config = composed(tmp_path, f"+benchmark={benchmark}", f"data_root={tmp_path}")
    ((name, setting),) = command.set_settings(config, {}).items()
    if "layouts" in setting:
        return  # see test_a_set_that_only_hands_can_lay_out_says_where
    assert setting["catalogue"] == name
    photograph = make_photograph(32, 32, 0)
    folder = {"PIRM-self-val": "PIRM/HR", "DIV2K-valid": "DIV2K/DIV2K_valid_HR"}.get(name, f"{name}/HR")
    save_image(photograph, tmp_path / folder / "one.png")
    assert [case.name for case in command.prepare(config).sets[0].cases] == ["one"]


def test_several_sets_take_finished_images_from_subfolders(folders: Path, tmp_path: Path) -> None:
    for name in ("Set5", "other"):
        for path in (folders / "HR").iterdir():
            save_image(read_image(path), tmp_path / "theirs" / name / path.name)
    sets = f"sets={{Set5: {{hr: {folders}/HR}}, other: {{hr: {folders}/HR, lr: {folders}/LR}}}}"
    plan = command.prepare(composed(tmp_path, sets, f"images={tmp_path}/theirs", "bicubic=false"))
    assert [case.finished["theirs"].parent.name for test_set in plan.sets for case in test_set.cases[:1]] == [
        "Set5",
        "other",
    ]


# What is remembered


def counting(name: str, calls: list[str], fail: bool = False) -> methods.Method:
    def enlarge(image: np.ndarray) -> np.ndarray:
        calls.append(name)
        if fail:
            raise methods.OutputError("its output is NaN")
        return imresize(image, 4)

    return methods.Method(name, name, f"fingerprint of {name}", enlarge)


def test_nothing_is_computed_twice(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_set, calls = opened(folders), []
    metrics = [make_metric("psnr_y", 4)]
    first = evaluate.evaluate([test_set], [counting("one", calls)], metrics, tmp_path / "remembered", 2)
    assert calls == ["one"] * 3
    monkeypatch.setattr("esrgan_lit.metrics.fidelity.psnr_y", None)
    again = evaluate.evaluate([test_set], [counting("one", calls)], metrics, tmp_path / "remembered", 1)
    assert (again, calls) == (first, ["one"] * 3)
    monkeypatch.undo()
    evaluate.evaluate([test_set], [counting("two", calls)], metrics, tmp_path / "remembered", 1)
    assert calls[3:] == ["two"] * 3  # other weights


def test_another_protocol_or_truth_is_measured_anew(folders: Path, tmp_path: Path) -> None:
    def figures(border: int) -> list[float]:
        metric = make_metric("psnr_y", 4, command.MetricOptions(border=border))
        results = evaluate.evaluate([opened(folders)], [methods.bicubic(4)], [metric], tmp_path / "remembered", 1)
        return [result.values["psnr_y"] for result in results]

    before = figures(4)
    assert figures(0) != before
    assert figures(4) == before
    save_image(255 - read_image(folders / "HR" / "a.png"), folders / "HR" / "a.png")
    assert figures(4)[0] != before[0]
    assert figures(4)[1:] == before[1:]


def test_a_run_that_was_cut_goes_on(folders: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    def cut(image: np.ndarray) -> np.ndarray:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counting("one", calls).enlarge(image)

    metrics, method = [make_metric("psnr_y", 4)], counting("one", calls)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate([opened(folders)], [method._replace(enlarge=cut)], metrics, tmp_path / "remembered", 1)
    results = evaluate.evaluate([opened(folders)], [method], metrics, tmp_path / "remembered", 1)
    assert len(calls) == 3
    assert len(results) == 3


# What goes wrong


def test_nan_outputs_are_said_and_the_others_done(
    folders: Path, weights: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = weights("spoilt", spoil=True)
    config = composed(tmp_path, f"hr={folders}/HR", f"weights={spoilt}", "metrics.names=[psnr_y,rmse]")
    out = command.run(config, command.prepare(config))
    table = capsys.readouterr().out
    assert re.search(r"^spoilt +– +–$", table, re.MULTILINE)
    assert re.search(r"^bicubic +\d\d\.\d\d\* +\d+\.\d\d\*$", table, re.MULTILINE)
    assert "a, spoilt: the network's result is not finite (NaN or infinity), in fp32 too" in table
    assert "| a | spoilt | – | – | the network's result is not finite" in (out / "results.md").read_text(
        encoding="utf-8"
    )
    image = page_images(out / "index.html")[0]
    assert [method["name"] for method in image["methods"]] == ["ground truth", "bicubic"]
    assert any(note.startswith("spoilt: the network's result is not finite") for note in image["notes"])


def test_a_metric_that_cannot_be_had_is_marked_and_the_others_done(folders: Path, tmp_path: Path) -> None:
    names = "metrics.names=[psnr_y,niqe,lpips]"
    lacking = ["metrics.niqe_parameters=nowhere", "metrics.lpips_weights=nowhere"]
    plan = command.prepare(composed(tmp_path, f"hr={folders}/HR", names, *lacking))
    assert [metric.name for metric in plan.metrics] == ["psnr_y"]
    assert list(plan.absent) == ["niqe", "lpips"]
    assert "nowhere is no file" in plan.absent["niqe"]
    with pytest.raises(ValueError, match="no metric can be had"):
        command.prepare(composed(tmp_path, f"hr={folders}/HR", "metrics.names=[niqe]", *lacking))


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("baby_HR_x4", "baby"),
        ("img_001_SRF_4_HR", "img_001"),
        ("0801x4", "0801"),
        ("img_2", "img_2"),
        ("x4", "x4"),
        ("girl-LR", "girl"),
    ],
)
def test_what_data_sets_append_to_names_is_left_out(stem: str, expected: str) -> None:
    assert normalized(stem) == expected


def test_unpaired_names_are_refused(folders: Path) -> None:
    (folders / "LR" / "bx4.png").write_bytes((folders / "LR" / "ax4.png").read_bytes())
    (folders / "LR" / "greyx4.png").unlink()
    with pytest.raises(ValueError, match=r"without a partner grey; belonging to none bx4"):
        opened(folders, lr=folders / "LR")
    (folders / "LR" / "greyx4.png").write_bytes((folders / "LR" / "ax4.png").read_bytes())
    (folders / "LR" / "bx4.png").rename(folders / "LR" / "a_again.png")
    with pytest.raises(ValueError, match=r"several for one a_again, ax4"):
        opened(folders, lr=folders / "LR")


def test_truths_of_one_name_pair_up_by_their_folders(folders: Path) -> None:
    for kind, name in (("HR", "a.png"), ("LR", "ax4.png")):
        (folders / kind / "more").mkdir()
        (folders / kind / "more" / name).write_bytes((folders / kind / name).read_bytes())
    cases = opened(folders, lr=folders / "LR").cases
    low_res = {case.name: case.low_res for case in cases}
    assert low_res["HR_a"] == folders / "LR" / "ax4.png"
    assert low_res["more_a"] == folders / "LR" / "more" / "ax4.png"
    (folders / "LR" / "more").rename(folders / "LR" / "others")
    with pytest.raises(ValueError, match=r"lr: .*LR does not pair up: .* have one name; put their partners into fold"):
        opened(folders, lr=folders / "LR")


def test_finished_images_off_by_less_than_the_scale_are_cropped_and_more_are_refused(
    folders: Path, tmp_path: Path
) -> None:
    for path in (folders / "HR").iterdir():
        image = read_image(path)
        save_image(image[:-3, :-1] if path.stem == "a" else image, tmp_path / "theirs" / path.name)
    test_set = opened(folders, finished={"theirs": tmp_path / "theirs"})
    metrics = [make_metric("psnr_y", 4), make_metric("consistency", 4)]
    results = evaluate.evaluate([test_set], [], metrics, tmp_path / "remembered", 1)
    assert results[0].note == "output of 79×61 and ground truth of 80×64 cropped to 76×60"
    assert results[0].values["psnr_y"] == np.inf
    save_image(make_photograph(60, 80, 0), tmp_path / "theirs" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is 80×60, its ground truth 80×64"):
        opened(folders, finished={"theirs": tmp_path / "theirs"})
    save_image(make_photograph(15, 20, 0), folders / "LR" / "ax4.png")
    with pytest.raises(ValueError, match=r"ax4\.png, enlarged 4 times, is 80×60, its ground truth 80×64"):
        opened(folders, lr=folders / "LR")


def test_damaged_and_tiny_images_are_refused(folders: Path) -> None:
    (folders / "HR" / "a.png").write_bytes((folders / "HR" / "a.png").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"1 images cannot be decoded:\n  .*a\.png"):
        opened(folders)
    save_image(make_photograph(12, 90, 0), folders / "HR" / "a.png")
    with pytest.raises(ValueError, match="too small"):
        opened(folders)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "no test set: give hr=FOLDER"),
        (["lr=somewhere"], "no hr beside it"),
        (["hr=nowhere"], "hr: nowhere does not exist"),
        (["hr={hr}", "weights=nowhere.pth"], r"nowhere\.pth is no file"),
        (["hr={hr}", "weights={weights}", "scale=2"], "enlarges 4 times, but scale is 2"),
        (["hr={hr}", "sweep.psnr={weights}"], "a sweep needs both ends"),
        (["hr={hr}", "sweep.psnr={weights}", "sweep.gan={weights}", "sweep.alphas=[2]"], r"alpha 2 is not in \[0, 1\]"),
        (["hr={hr}", "back_project=Irani"], "back_project 'Irani' is not known; use gaussian or reverse-filter"),
        (["hr={hr}", "sweep.psnr={weights}", "sweep.gan={weights}", "sweep.by=[pixels]"], "networks, images or both"),
        (["hr={hr}", "bicubic=false"], "nothing to evaluate"),
        (["hr={hr}", "metrics.names=[psnr_x]"], "metric 'psnr_x' is not known"),
        (["hr={hr}", "weights={{bicubic: {weights}}}"], "two methods are called 'bicubic'"),
        (["hr={hr}", "images={{bicubic: {hr}}}"], "two methods are called 'bicubic'"),
        (["sets={{mine: {{lr: {hr}}}}}"], "it takes hr: FOLDER or catalogue: NAME"),
        (["hr={hr}", "boundary=periodic"], "boundary 'periodic' is not known"),
    ],
)
def test_what_is_wrong_is_said_before_time_is_spent(
    overrides: list[str], message: str, folders: Path, weights: Callable[..., Path], tmp_path: Path
) -> None:
    filled = [override.format(hr=folders / "HR", weights=weights("some")) for override in overrides]
    with pytest.raises((ValueError, OSError), match=message):
        command.prepare(composed(tmp_path, *filled))


# Methods, places, figures


def test_names_are_as_much_of_the_paths_as_tells_them_apart() -> None:
    assert methods.name_sources(None) == {}
    assert methods.name_sources("a/net.pth") == {"net": "a/net.pth"}
    runs = ["runs/a/checkpoints/best.ckpt", "runs/b/checkpoints/best.ckpt"]
    assert list(methods.name_sources(runs)) == ["a/best", "b/best"]
    assert methods.name_sources({"ours": "x.pth"}) == {"ours": "x.pth"}


def test_image_interpolation_is_the_mean_of_the_outputs(weights: Callable[..., Path]) -> None:
    psnr, gan = weights("psnr", 1), weights("gan", 2)
    low_res = make_photograph(16, 20, 0)
    by_name = {method.name: method for method in methods.alpha_series(psnr, gan, [0, 0.25, 1], RUNNER)}
    ends = [by_name[name].enlarge(low_res).astype(float) for name in ("α = 0", "α = 1")]
    blend = by_name["α = 0.25 (images)"].enlarge(low_res)
    np.testing.assert_allclose(blend, 0.75 * ends[0] + 0.25 * ends[1], atol=0.5)
    assert len({method.fingerprint for method in by_name.values()}) == len(by_name)
    wide = weights("wide", width=16)
    with pytest.raises(WeightsError, match="different architectures"):
        methods.alpha_series(psnr, wide, [0.5], RUNNER)
    assert methods.alpha_series(psnr, wide, [0.5], RUNNER, ["images"])[0].enlarge(low_res).shape == (64, 80, 3)


@pytest.mark.slow
@pytest.mark.skipif(not winograd_library.available(), reason="no C++ compiler")
def test_every_engine_gives_the_same_figures(testsets: Path, real_weights: Path, tmp_path: Path) -> None:
    """A network that others trained, on a photograph: 8-bit images differ by one level in a few samples."""
    low_res = read_image(testsets / "Set5" / "LRbicx4" / "butterfly.png")[:32, :32]
    truth = to_batch(read_image(testsets / "Set5" / "HR" / "butterfly.png")[:128, :128])
    path = real_weights / "RealSR_DF2K_x4_fp16.pth"
    found = [methods.network("net", path, replace(RUNNER, engine=engine)) for engine in ("auto", "torch")]
    fast, exact = (method.enlarge(low_res) for method in found)
    assert [method.source for method in found] == [f"{path}, engine {name} on cpu" for name in ("winograd", "torch")]
    assert found[0].fingerprint != found[1].fingerprint  # neither is remembered as the other's
    expected = to_image(load_generator(path)(to_batch(low_res)).detach())
    for image in (fast, exact):
        assert_same_levels(image, expected)
        assert abs(psnr_y(to_batch(image), truth, 4) - psnr_y(to_batch(expected), truth, 4)) < 1e-3


def test_the_engine_is_chosen_and_said(folders: Path, weights: Callable[..., Path], tmp_path: Path) -> None:
    given = [f"hr={folders}/HR", f"weights={weights('net')}", "metrics.names=[psnr_y]"]
    config = composed(tmp_path, *given, "engine=torch")
    out = command.run(config, command.prepare(config))
    assert "net.safetensors, engine torch on cpu" in (out / "results.md").read_text(encoding="utf-8")
    for wrong, said in (("tensorrt", "'tensorrt' is not known; use one of auto, torch, winograd"), ("3", "engine=3")):
        with pytest.raises(ValueError, match=said):
            command.prepare(composed(tmp_path, *given, f"engine={wrong}"))
    with pytest.raises(ValueError, match=r"net\.safetensors: engine winograd computes in float32 on the CPU"):
        command.prepare(composed(tmp_path, *given, "engine=winograd", "device=meta"))


def test_an_image_that_does_not_fit_is_said_and_the_others_done(weights: Callable[..., Path]) -> None:
    method = methods.network("net", weights("net"), RUNNER)
    method.enlarge._enlarge.func.max_memory = 1  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(methods.OutputError, match="MiB are left for it"):
        method.enlarge(make_photograph(16, 20, 0))


@pytest.mark.parametrize("how", ["gaussian", "reverse-filter"])
def test_back_projection_of_an_evaluation_is_upscales(weights: Callable[..., Path], how: BackProjection) -> None:
    path, low_res = weights("net", 1), make_photograph(16, 20, 0)
    plain, projected = (methods.network("net", path, replace(RUNNER, back_project=each)) for each in (None, how))
    image = projected.enlarge(low_res)
    assert_same_levels(image, Upscaler(load_generator(path), "torch", "cpu", back_project=how)(low_res))
    distances = [np.abs(imresize(each, 1 / 4).astype(int) - low_res).mean() for each in (plain.enlarge(low_res), image)]
    assert distances[1] < distances[0]
    assert plain.fingerprint != projected.fingerprint


def test_pirms_protocol_names_the_best_of_each_region(
    folders: Path, weights: Callable[..., Path], tmp_path: Path
) -> None:
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        protocol = compose("evaluate", ["+protocol=pirm"])
    assert (protocol.back_project, list(protocol.sweep.by), protocol.bicubic) == ("reverse-filter", ["images"], False)
    folder = folders / "HR"
    overrides = ["+protocol=pirm", f"hr={folder}", "sweep.alphas=[0,0.5,1]", "metrics.names=[rmse]", "crop=16"]
    ends = [f"sweep.psnr={weights('psnr', 1)}", f"sweep.gan={weights('wide', 2, width=16)}"]
    config = composed(tmp_path, *overrides, *ends)
    plan = command.prepare(config)
    assert [method.name for method in plan.methods] == ["α = 0", "α = 0.5 (images)", "α = 1"]
    report = SetReport(plan.sets[0], [], plan.metrics)
    metric = plan.metrics[0]  # stands in for PI, which needs a package
    report.plane = metric, {"a": (11.0, 3.0), "b": (11.5, 2.5), "c": (15.0, 2.0), "d": (17.0, 1.0)}
    assert report.regions == [
        f"PIRM's region 1 (RMSE ≤ 11.5): b, {metric.title} {metric.format(2.5)} at RMSE 11.50",
        f"PIRM's region 3 (RMSE ≤ 16): c, {metric.title} {metric.format(2.0)} at RMSE 15.00",
    ]


def test_folders_and_releases_are_evaluated_like_files(
    weights: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = weights("net", 1)
    load_generator(file).save_pretrained(tmp_path / "pretrained")
    monkeypatch.setattr(releases, "fetch", lambda name: {"esrgan_x4": file}[name])
    found = [methods.network("net", source, RUNNER) for source in (file, tmp_path / "pretrained", "ESRGAN_x4")]
    low_res = make_photograph(16, 20, 0)
    assert len({method.enlarge(low_res).tobytes() for method in found}) == 1
    assert found[0].fingerprint == found[2].fingerprint
    assert len(methods.alpha_series("esrgan_x4", "esrgan_x4", [0, 1], RUNNER)) == 2


def test_what_spandrel_reads_is_evaluated(tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel")
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    network = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=4)
    torch.save({"params": network.state_dict()}, tmp_path / "compact.pth")
    method = methods.network("compact", tmp_path / "compact.pth", RUNNER)
    low_res = make_photograph(16, 20, 0)
    described = spandrel.ModelLoader().load_from_file(tmp_path / "compact.pth")
    expected = described(to_batch(low_res)).detach()[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(method.enlarge(low_res), expected, atol=0.51)
    assert method.source.endswith("compact.pth, engine torch on cpu")
    with pytest.raises(ValueError, match=r"compact.pth: engine winograd computes this library's networks alone"):
        methods.network("compact", tmp_path / "compact.pth", replace(RUNNER, engine="winograd"))
    torch.save({"something": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="nor can spandrel read it"):
        methods.network("other", tmp_path / "other.pth", RUNNER)


def test_places_of_difference_do_not_overlap_and_come_most_first() -> None:
    flat = np.full((200, 300, 3), 128, np.uint8)
    image = flat.copy()
    image[96:160, 192:256] = make_photograph(64, 64, 0)
    image[0:64, 0:64] = 118
    places = crops_of_difference([flat, image, flat], 64, 3)
    assert places[:2] == [(96, 192), (0, 0)]
    for (top, left), (other_top, other_left) in ((places[0], places[1]), (places[0], places[2])):
        assert abs(top - other_top) >= 64 or abs(left - other_left) >= 64
    assert crops_of_difference([flat[:50, :40], image[:50, :40]], 64, 5) == [(0, 0)]


def test_published_figures_are_of_metrics_that_exist_and_stand_under_one_set() -> None:
    assert {one.metric for one in PUBLISHED} <= METRICS.keys()
    assert all(one.source and one.protocol for one in PUBLISHED)
    found = published_for("set5", ["psnr_y"], 4)
    assert {"bicubic": 28.42, "RCAN, DIV2K": 32.63}.items() <= {one.model: one.figure for one in found}.items()
    assert published_for("Set5", ["psnr_y"], 2) == []


def test_a_page_that_would_be_too_large_is_compressed_then_thinned(folders: Path, tmp_path: Path) -> None:
    config = composed(tmp_path, f"hr={folders}/HR", "page_megabytes=0.01", "metrics.names=[psnr_y]")
    text = (command.run(config, command.prepare(config)) / "index.html").read_text(encoding="utf-8")
    assert "compressed with loss (WebP, quality 90)" in text
    assert "of 3 images are left out" in text
