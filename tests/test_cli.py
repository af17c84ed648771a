"""``esrgan-upscale`` on files and folders."""

from pathlib import Path

import numpy as np
import pytest

from esrgan_lit import RRDBNet, load_generator, save_generator, upscale
from esrgan_lit.cli import upscale_main
from esrgan_lit.data.images import read_image


@pytest.fixture
def network(tmp_path: Path) -> Path:
    save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_one_file(photograph_folder: Path, network: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    arguments = [str(photograph_folder / "a.png"), "-o", str(output), "--checkpoint", str(network)]
    upscale_main(arguments)
    expected = upscale(read_image(photograph_folder / "a.png"), load_generator(network))
    np.testing.assert_array_equal(read_image(output), expected)
    with pytest.raises(SystemExit, match=r"1 outputs exist already, .*out\.png first; add --overwrite"):
        upscale_main(arguments)
    upscale_main([*arguments, "--overwrite"])


def test_a_folder_keeps_its_structure_and_one_bad_file_does_not_stop_the_rest(
    photograph_folder: Path, network: Path, tmp_path: Path
) -> None:
    (photograph_folder / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    with pytest.raises(SystemExit, match=r"1 of 4 images failed:\n  .*broken\.jpg"):
        upscale_main([str(photograph_folder), "-o", str(tmp_path / "out"), "--checkpoint", str(network)])
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {"a.png", "b.png", "more/c.png"}


def test_refusals(photograph_folder: Path, network: Path, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "out"), "--checkpoint", str(network)]
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        upscale_main(["nowhere", *out])
    with pytest.raises(SystemExit, match="is no file"):
        upscale_main([str(photograph_folder), "-o", str(tmp_path / "out"), "--checkpoint", "none.ckpt"])
    with pytest.raises(SystemExit, match="name a folder"):
        upscale_main([str(photograph_folder), "-o", str(tmp_path / "x.png"), "--checkpoint", str(network)])
    (photograph_folder / "a.jpg").write_bytes((photograph_folder / "a.png").read_bytes())
    with pytest.raises(SystemExit, match=r"would both be written to .*a\.png; rename"):
        upscale_main([str(photograph_folder), *out])
