"""``esrgan-interpolate``."""

from pathlib import Path

import pytest
import torch

from esrgan_lit import RRDBNet, interpolate, load_generator, save_generator
from esrgan_lit.cli import interpolate_main


@pytest.fixture
def network(tmp_path: Path) -> Path:
    save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_interpolation_writes_a_slim_file(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = RRDBNet(4, 1, 8, 4, bicubic_skip=True)
    save_generator(other, tmp_path / "gan.safetensors")
    output = tmp_path / "blend.safetensors"
    arguments = [str(network), str(tmp_path / "gan.safetensors"), "--alpha", "0.8", "-o"]
    interpolate_main([*arguments, str(output)])
    assert str(output) in capsys.readouterr().out
    expected = interpolate(load_generator(network), other, 0.8).state_dict()
    for key, value in load_generator(output).state_dict().items():
        torch.testing.assert_close(value, expected[key])
    with pytest.raises(SystemExit, match=r"does not end in \.safetensors"):
        interpolate_main([*arguments, "blend.bin"])
