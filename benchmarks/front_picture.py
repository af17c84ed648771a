r"""Draw README's picture: truth, bicubic, PSNR stage, α, GAN stage, enlarged four times.

    python benchmarks/front_picture.py --gan RealSR_DF2K_x4_fp16.pth --photographs FOLDER \
        --show fur:0011.jpg:300,446 rock:0030.jpg:146,430 -o docs/front.png

The GAN stage is a published network. The PSNR stage is trained here, from the published weights, with L1 on the other
photographs of the folder, so that the two can be interpolated (Eq. 4). It is kept in runs/front_picture and not trained
again. The photographs that are shown are never trained on; each is shrunk as MATLAB would.
"""

import argparse
from pathlib import Path

import numpy as np

from esrgan_lit import Generator, imresize, interpolate, load_generator, psnr_y, upscale
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image
from esrgan_lit.reports.plots import cut, draw_grid
from esrgan_lit.training import quickstart

RUN = Path("runs/front_picture")
ALPHA = 0.8
AROUND = 96  # pixels around what is shown, which the networks see as well


def main() -> None:
    """Train where it was not done, enlarge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gan", type=Path, required=True, help="weights of a GAN stage, ×4")
    parser.add_argument("--photographs", type=Path, required=True, help="folder")
    parser.add_argument("--show", nargs="+", required=True, metavar="TITLE:NAME:TOP,LEFT", help="squares of these")
    parser.add_argument("--side", type=int, default=60, help="of the squares, in pixels of the truth")
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture")
    options = parser.parse_args()
    shown = [one.split(":") for one in options.show]
    gan = load_generator(options.gan)
    psnr = load_generator(
        train_psnr(options.gan, options.photographs, {name for _, name, _ in shown}, options.iterations)
    )
    networks = {"PSNR stage": psnr, f"α = {ALPHA}": interpolate(psnr, gan, ALPHA), "GAN stage": gan}
    rows = {
        title: crops_of(read_image(options.photographs / name), place, options.side, networks)
        for title, name, place in shown
    }
    draw_grid(rows, options.output, width=4 * options.side / 100)


def train_psnr(gan: Path, photographs: Path, left_out: set[str], iterations: int) -> Path:
    """Train the PSNR stage from the GAN stage's weights; return its last checkpoint."""
    files = [str(path) for path in list_images([photographs], "--photographs") if path.name not in left_out]
    overrides = [
        "+experiment=psnr_rrdb23",
        "data=folder",
        f"data.train={files}",
        "data.small_images=skip",
        "data.in_memory=true",
        "data.batch=8",
        "crop=64",
        f"stage.start_from='{gan}'",
        "stage/scheduler=cosine",
        "stage.optimizer.lr=1e-4",
        "stage.ema_decay=0.98",
        f"trainer.max_steps={iterations}",
        f"trainer.val_check_interval={iterations}",
        "trainer=cpu",
        "trainer.precision=bf16-mixed",
        "logger=csv",
    ]
    return quickstart.run(RUN / "psnr", *overrides)


def crops_of(photograph: np.ndarray, place: str, side: int, networks: dict[str, Generator]) -> dict[str, np.ndarray]:
    """Return a square of the truth, of bicubic, and of each network's output, under titles with their PSNR.

    Args:
        photograph: uint8 RGB.
        place: ``TOP,LEFT`` of the square.
        side: of the square.
        networks: by title.
    """
    corner = [int(edge) for edge in place.split(",")]
    top, left = (max(0, edge - AROUND) // 4 * 4 for edge in corner)
    truth = photograph[top : top + side + 2 * AROUND, left : left + side + 2 * AROUND]
    truth = truth[: truth.shape[0] // 4 * 4, : truth.shape[1] // 4 * 4]
    low_res = imresize(truth, 1 / 4)
    outputs = {"bicubic": imresize(low_res, 4)}
    outputs |= {name: np.asarray(upscale(low_res, network)) for name, network in networks.items()}
    within = corner[0] - top, corner[1] - left
    crops = {"truth\n": cut(truth, within, side)}
    for name, output in outputs.items():
        crop = cut(output, within, side)
        crops[f"{name}\n{psnr_y(crop, cut(truth, within, side), 0):.1f} dB"] = crop
    return crops


if __name__ == "__main__":
    main()
