"""``esrgan-export`` and ``esrgan-interpolate``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import assert_same_levels
from esrgan_lit import RRDBNet, SRResNet, blend, interpolate, load_generator, save_generator, upscale
from esrgan_lit.cli.export import export_main
from esrgan_lit.cli.interpolate import interpolate_main
from esrgan_lit.evaluation.methods import Runner, alpha_series
from esrgan_lit.weights.interpolate import interpolate_images
from esrgan_lit.weights.layouts import in_layout


@pytest.fixture
def networks(tmp_path: Path) -> list[str]:
    """Three files of one architecture, the second close to the first."""
    torch.manual_seed(0)
    first = RRDBNet(4, 1, 8, 4)
    second, third = RRDBNet(4, 1, 8, 4), RRDBNet(4, 1, 8, 4)
    with torch.no_grad():
        for parameter in (*first.parameters(), *third.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))  # or their outputs would be black
    second.load_state_dict({key: value * 1.1 for key, value in first.state_dict().items()})
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, network in zip(paths, (first, second, third), strict=True):
        save_generator(network, path)
    return [str(path) for path in paths]


def test_an_export_prints_the_largest_difference(
    networks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "net.pth"
    arguments = [networks[0], "-o", str(output), "--layout", "old"]
    export_main(arguments)
    printed = capsys.readouterr().out
    assert str(output) in printed
    assert "largest difference from PyTorch (outputs are 0 … 1) at 17×23: 0, 33×20: 0, 9×41: 0" in printed
    assert "model.1.sub.0.RDB1.conv1.0.weight" in torch.load(output, weights_only=True)
    with pytest.raises(SystemExit, match=r"exists already; add --overwrite"):
        export_main(arguments)
    export_main([*arguments, "--overwrite", "--half"])
    assert torch.load(output, weights_only=True)["model.0.weight"].dtype == torch.float16


@pytest.mark.parametrize(("option", "warned"), [("--license", False), ("--licence", True)])
def test_an_export_says_its_license(
    option: str, warned: bool, networks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_main([networks[0], "-o", str(tmp_path / "net.pth"), option, "CC0"])
    assert load_generator(tmp_path / "net.pth").metadata["license"] == "CC0"
    assert ("--licence is called --license now" in capsys.readouterr().err) == warned


def test_exports_refuse_in_one_line(networks: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"esrgan-export: .*net\.bin does not end in one of"):
        export_main([networks[0], "-o", str(tmp_path / "net.bin")])
    (tmp_path / "net.bin").touch()  # OpenVINO's and ncnn's second files have one name
    for suffix in (".param", ".xml"):
        with pytest.raises(SystemExit, match=r"net\.bin exists already; add --overwrite"):
            export_main([networks[0], "-o", str(tmp_path / f"net{suffix}")])
    with pytest.raises(SystemExit, match=r"esrgan-export: .*is no file, and no release is called so"):
        export_main(["nothing.ckpt", "-o", str(tmp_path / "net.pth")])


def test_both_commands_take_a_scale_and_name_their_files(networks: list[str], tmp_path: Path) -> None:
    torch.save(RRDBNet(3, 1, 8, 4).state_dict(), tmp_path / "three.pth")
    export_main([str(tmp_path / "three.pth"), "-o", str(tmp_path / "three.safetensors"), "--scale", "3"])
    assert load_generator(tmp_path / "three.safetensors").scale == 3
    pair = [str(tmp_path / "three.pth"), str(tmp_path / "three.safetensors")]
    interpolate_main([*pair, "--alpha", "0.5", "--scale", "3", "-o", str(tmp_path / "blend.safetensors")])
    with pytest.raises(SystemExit, match=r"interpolated \(.*a\.safetensors, .*three\.safetensors\): scale is 4 in one"):
        interpolate_main([networks[0], pair[1], "--alpha", "0.5", "-o", str(tmp_path / "d.safetensors")])
    with pytest.raises(SystemExit, match=r"a\.safetensors enlarges 4 times, not 3 times"):
        export_main([networks[0], "-o", str(tmp_path / "c.pth"), "--scale", "3"])
    with pytest.raises(SystemExit):
        export_main([networks[0], "-o", str(tmp_path / "c.onnx"), "--size", "0x5"])


def test_interpolation_writes_a_slim_file(
    networks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "blend.safetensors"
    interpolate_main([*networks[:2], "--alpha", "0.8", "-o", str(output)])
    captured = capsys.readouterr()
    assert str(output) in captured.out
    assert "warning" not in captured.err
    expected = interpolate(load_generator(networks[0]), load_generator(networks[1]), 0.8).state_dict()
    written = load_generator(output)
    assert all(torch.equal(value, expected[key]) for key, value in written.state_dict().items())
    assert written.metadata["blend"] == "0.2 · a.safetensors, 0.8 · b.safetensors"


@pytest.mark.parametrize("other", ["basicsr", "old"])
def test_files_as_real_esrgan_s_are_released_interpolate(networks: list[str], tmp_path: Path, other: str) -> None:
    """Both stages as ``params_ema`` in BasicSR's layout; or one of them in the old one, as RealSR's file is."""
    ends = [load_generator(path).state_dict() for path in networks[:2]]
    for name, state, layout in zip(("realesrnet", "realesrgan"), ends, ("basicsr", other), strict=True):
        torch.save({"params_ema": in_layout(state, layout)}, tmp_path / f"{name}.pth")
    files = [str(tmp_path / f"{name}.pth") for name in ("realesrnet", "realesrgan")]
    interpolate_main([*files, "--alpha", "0.3", "-o", str(tmp_path / "milder.safetensors")])
    for key, value in load_generator(tmp_path / "milder.safetensors").state_dict().items():
        torch.testing.assert_close(value, 0.7 * ends[0][key] + 0.3 * ends[1][key], rtol=1e-6, atol=1e-7)


def test_several_alphas_and_several_networks(networks: list[str], tmp_path: Path) -> None:
    interpolate_main([*networks[:2], "--alpha", "0.2,0.5,0.80", "-o", str(tmp_path / "x" / "blend.safetensors")])
    assert {path.name for path in (tmp_path / "x").iterdir()} == {f"blend-{a}.safetensors" for a in (0.2, 0.5, 0.8)}
    interpolate_main([*networks, "--weights", "0.2,0.3,0.5", "-o", str(tmp_path / "three.safetensors")])
    expected = blend([load_generator(path) for path in networks], [0.2, 0.3, 0.5]).state_dict()
    written = load_generator(tmp_path / "three.safetensors").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in written.items())


def test_networks_without_a_common_ancestor_are_warned_of(
    networks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interpolate_main([networks[0], networks[2], "--alpha", "0.5", "-o", str(tmp_path / "blend.safetensors")])
    assert "do not seem to share an ancestor" in capsys.readouterr().err
    assert (tmp_path / "blend.safetensors").is_file()


def test_sheets_compare_blended_networks_with_blended_images(
    networks: list[str], photograph_folder: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (12, 10), "red").save(photograph_folder / "more" / "small.png")
    image = str(photograph_folder / "more" / "small.png")
    output = tmp_path / "blend.safetensors"
    interpolate_main([*networks[:2], "--alpha", "0,1", "-o", str(output), "--images", image])
    sheet = read_sheet(tmp_path / "blend-images" / "000-small.png")
    low_res = np.asarray(Image.open(image))
    for network in networks[:2]:  # at the ends both ways are one of the networks
        assert len(find(sheet, upscale(low_res, load_generator(network)))) == 2


def test_images_are_interpolated_alike_by_both_commands(
    networks: list[str], photograph_folder: Path, tmp_path: Path
) -> None:
    low_res = np.asarray(Image.open(photograph_folder / "a.png"))[:20, :24]
    Image.fromarray(low_res).save(tmp_path / "small.png")
    output = tmp_path / "blend.safetensors"
    interpolate_main([*networks[:2], "--alpha", "0.5", "-o", str(output), "--images", str(tmp_path / "small.png")])
    ends = [upscale(low_res, load_generator(network)).astype(int) for network in networks[:2]]
    half = np.rint(sum(ends) / 2)
    assert (sum(ends) % 4 == 1).mean() > 0.1  # halves that go to an even level below them
    assert find(read_sheet(tmp_path / "blend-images" / "000-small.png"), half)
    (method,) = alpha_series(networks[0], networks[1], [0.5], Runner(4, torch.device("cpu")), ["images"])
    assert_same_levels(method.enlarge(low_res), half)  # but for the networks' own rounding


def read_sheet(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def find(sheet: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Where an image stands in a sheet, pixel by pixel."""
    height, width = image.shape[:2]
    corners = np.argwhere((sheet[: 1 - height, : 1 - width] == image[0, 0]).all(-1)).tolist()
    return [(y, x) for y, x in corners if (sheet[y : y + height, x : x + width] == image).all()]


def test_images_are_blended_and_rounded() -> None:
    images = [np.full((1, 1, 3), value, np.uint8) for value in (0, 100, 255)]
    assert interpolate_images(images, [0.2, 0.3, 0.5]).tolist() == [[[158, 158, 158]]]  # 157.5 to even
    assert interpolate_images([images[0], images[0] + 5], [0.5, 0.5]).tolist() == [[[2, 2, 2]]]  # 2.5 to even


def test_refusals(networks: list[str], tmp_path: Path) -> None:
    save_generator(SRResNet(4, 1, 8), tmp_path / "other.safetensors")
    out = ["-o", str(tmp_path / "out.safetensors")]
    pair = networks[:2]
    cases = {
        r"does not end in \.safetensors": [*pair, "--alpha", "0.5", "-o", "blend.bin"],
        r"alpha 1.5 is not in \[0, 1\]": [*pair, "--alpha", "0.5,1.5", *out],
        "has a number twice": [*pair, "--alpha", "0.5,0.50", *out],
        "--alpha blends two networks, here are 3; give --weights": [*networks, "--alpha", "0.5", *out],
        "2 weights for 3 networks": [*networks, "--weights", "0.5,0.5", *out],
        "have the sum 0.7": [*networks, "--weights", "0.2,0.2,0.3", *out],
        "name is RRDBNet in one and SRResNet in the other": [
            pair[0], str(tmp_path / "other.safetensors"), "--alpha", "0.5", *out
        ],
        "exists already; add --overwrite": [*pair, "--alpha", "0.5", "-o", pair[0]],
    }  # fmt: skip
    for message, arguments in cases.items():
        with pytest.raises(SystemExit, match=message):
            interpolate_main(arguments)
    assert not (tmp_path / "out.safetensors").exists()
