"""Smaller versions of photographs: their sizes and pixels beside Pillow's, packed and trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import make_photograph
from esrgan_lit import PairDataModule
from esrgan_lit.cli import data
from esrgan_lit.data.packed import PackedError, PackedImages, pack
from esrgan_lit.data.photographs import check_images
from esrgan_lit.images.listing import list_images

# (height, width) → sizes of the versions, as Real-ESRGAN's script computes them.
SIZES = {
    (70, 95): {"0.75": (52, 71), "0.5": (35, 47), "0.33": (23, 31)},
    (450, 601): {"0.75": (337, 450), "0.5": (225, 300), "0.33": (150, 200), "400px": (400, 534)},
    (601, 450): {"0.75": (450, 337), "0.5": (300, 225), "0.33": (200, 150), "400px": (534, 400)},
    (400, 500): {"0.75": (300, 375), "0.5": (200, 250), "0.33": (133, 166)},
}


def test_versions_are_pillow_s_lanczos_and_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    expected: dict[str, np.ndarray] = {}
    for number, (size, versions) in enumerate(SIZES.items()):
        image = Image.fromarray(make_photograph(*size, number))
        image.save(tmp_path / f"photos/{number}.png")
        expected[f"{number}"] = np.asarray(image)
        for name, (height, width) in versions.items():
            expected[f"{number}@{name}"] = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    command = ["pack", str(tmp_path / "photos"), "-o", str(tmp_path / "packed"), "--multi-scale"]
    for _ in range(2):  # given again, it finds it done
        with pytest.raises(SystemExit) as end:
            data.main(command)
        assert not end.value.code
        assert f"packed: {len(expected)} images" in capsys.readouterr().out
    images = {image.name: image for image in PackedImages(tmp_path / "packed").images()}
    assert images.keys() == expected.keys()
    for name, image in images.items():
        np.testing.assert_array_equal(image.pixels(), expected[name])
    module = PairDataModule([tmp_path / "packed"], crop=32)
    module.setup("fit")
    assert len(module.photographs) == sum(min(pixels.shape[:2]) >= 32 for pixels in expected.values())
    with pytest.raises(PackedError, match="was packed from other files"):
        pack(check_images(list_images([tmp_path / "photos"], "FOLDER"), "refuse"), tmp_path / "packed")
