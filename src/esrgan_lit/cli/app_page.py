"""The page of ``esrgan-app``: what it shows, and what it does with a photograph. Gradio (extra ``app``) draws it."""

import argparse
import html
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
import psutil
from gradio.themes import Default  # pyright: ignore[reportMissingImports]

from esrgan_lit.files import digest, file_name
from esrgan_lit.images.picture import Picture
from esrgan_lit.images.reading import read_picture, size_of
from esrgan_lit.images.writing import check_size, written_picture
from esrgan_lit.inference.memory import free_memory
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.weights.interpolate import interpolate, interpolate_images
from esrgan_lit.weights.load import load_generator
from esrgan_lit.weights.releases import RELEASES

_NONE = "none"
_OF_NETWORKS, _OF_PICTURES = "the networks' weights", "the two pictures"
_KEPT = 24  # outputs on the disk, the ones used last
_LARGEST_UPLOAD = "200mb"
_SYSTEM = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # fonts: nothing is fetched
_HELP = """**α between two networks.** Choose a second network: α = 0 is the first, α = 1 the second.
*The networks' weights* is the paper's way: each new α is a network of its own and is computed anew; those computed
before are shown at once. *The two pictures* is computed once for each network; then every α comes at once. It is close
to the other, and not the same."""


class Studio:
    """Enlarges photographs, and keeps the outputs that were made.

    Args:
        folder: where outputs are kept; nothing is written elsewhere.
        files: weights to offer beside the releases that are here.
        device: as :class:`Upscaler` takes it.
        max_memory: bytes that the process may take; ``None`` for what is free.
    """

    def __init__(self, folder: Path, files: list[str], device: str | None, max_memory: int | None) -> None:
        self._folder, self._device, self._max_memory = folder, device, max_memory
        self._sources = {name: name for name, release in RELEASES.items() if release.path is not None}
        for path in files:
            self.add(path)
        self._outputs: OrderedDict[tuple[Any, ...], Path] = OrderedDict()
        self._ready: tuple[Any, Upscaler] | None = None  # one: engines hold transformed weights

    @property
    def names(self) -> list[str]:
        """What weights there are."""
        return list(self._sources)

    def add(self, path: str) -> str:
        """Offer a file of weights, after it was read; return its name.

        Raises:
            ValueError: when it holds no generator; OSError when it cannot be read.
        """
        load_generator(path)
        name = Path(path).name
        self._sources[name] = path
        return name

    def size(self, photo: str, weights: str) -> str:
        """Return in words how large a photograph will be and which memory that takes.

        Raises:
            ValueError: when it is no image; MemoryError when it would not fit.
        """
        height, width = size_of(Path(photo))
        if not height:
            read_picture(Path(photo))  # says why
        upscaler = self._upscaler(weights, weights, 0.0)
        check_size(Path("large.png"), height * upscaler.scale, width * upscaler.scale)
        needed, there = upscaler.predicted_bytes(height, width), self._room()
        larger = f"{width}×{height} becomes {width * upscaler.scale}×{height * upscaler.scale}"
        memory = f"about {needed / 2**20:,.0f} MiB of {there / 2**20:,.0f} MiB"
        if needed > there:
            raise MemoryError(f"{larger}, which takes {memory}; it would not fit. Take a smaller photograph")
        return f"{larger}; {memory}, engine {upscaler.engine.name} on {upscaler.engine.device}"

    def _room(self) -> int:
        return self._max_memory or psutil.Process().memory_info().rss + free_memory()

    def known(self, photo: str, first: str, second: str, alpha: float, way: str) -> bool:
        """Return whether an output can be shown without computing."""
        alphas = (0.0, 1.0) if way == _OF_PICTURES and 0 < alpha < 1 else (alpha,)
        return all(self._key(photo, first, second, each) in self._outputs for each in alphas)

    def enlarge(
        self, photo: str, first: str, second: str, alpha: float, way: str, progress: Callable[[float], object]
    ) -> Path:
        """Return the file of an enlarged photograph, made now where it is not there.

        Args:
            photo: an image file.
            first: name of the network at α = 0.
            second: of the one at α = 1.
            alpha: between them.
            way: what is blended.
            progress: told which part of the work is done.
        """
        self.size(photo, first)
        if way == _OF_NETWORKS or alpha in (0, 1):
            return self._made(
                photo, first, second, alpha, lambda picture: self._pixels(picture, first, second, alpha, progress)
            )
        halves = []
        for end in (0.0, 1.0):
            part: Callable[[float], object] = lambda done, end=end: progress((end + done) / 2)  # noqa: E731
            halves.append(
                self._made(
                    photo,
                    first,
                    second,
                    end,
                    lambda picture, end=end, part=part: self._pixels(picture, first, second, end, part),
                )
            )
        images = [read_picture(half).pixels for half in halves]
        if images[0].shape != images[1].shape or images[0].dtype != np.uint8:
            raise ValueError("pictures of two sizes, or of 16 bits, are not blended; blend the networks' weights")
        return self._made(photo, first, second, alpha, lambda _: interpolate_images(images, (1 - alpha, alpha)), way)

    def _pixels(
        self, picture: Picture, first: str, second: str, alpha: float, progress: Callable[[float], object]
    ) -> np.ndarray:
        megapixels, done = picture.pixels.shape[0] * picture.pixels.shape[1] / 1e6, 0.0

        def tell(part: float) -> None:
            nonlocal done
            done += part
            progress(min(1.0, done / megapixels))

        return self._upscaler(first, second, alpha)(picture.pixels, tell)

    def _upscaler(self, first: str, second: str, alpha: float) -> Upscaler:
        wanted = self._identity(first, second, alpha)
        if self._ready is None or self._ready[0] != wanted:
            self._ready = None  # its memory is free before the next one's is taken
            ends = [load_generator(self._sources[name]) for name, _ in wanted]
            generator = ends[0] if len(ends) == 1 else interpolate(ends[0], ends[1], alpha)
            self._ready = wanted, Upscaler(generator, device=self._device, max_memory=self._max_memory)
        return self._ready[1]

    def _identity(self, first: str, second: str, alpha: float) -> tuple[tuple[str, float], ...]:
        """Return networks and their shares, those of none left out."""
        shares = ((first, 1 - alpha), (second, alpha)) if second not in (_NONE, first) else ((first, 1.0),)
        return tuple((name, share) for name, share in shares if share)

    def _key(self, photo: str, first: str, second: str, alpha: float, way: str = _OF_NETWORKS) -> tuple[Any, ...]:
        return (digest(Path(photo)), self._identity(first, second, alpha), way)

    def _made(
        self,
        photo: str,
        first: str,
        second: str,
        alpha: float,
        compute: Callable[[Picture], np.ndarray],
        way: str = _OF_NETWORKS,
    ) -> Path:
        key = self._key(photo, first, second, alpha, way)
        if key not in self._outputs:
            picture = read_picture(Path(photo))
            pixels = compute(picture)
            scale = round(pixels.shape[0] / picture.pixels.shape[0])
            place = self._folder / f"{abs(hash(key)):x}"
            path = place / file_name(f"{Path(photo).stem}_x{scale}.png")
            with written_picture(picture._replace(pixels=pixels), path, 95):
                pass
            self._outputs[key] = path
        self._outputs.move_to_end(key)
        while len(self._outputs) > _KEPT:
            shutil.rmtree(self._outputs.popitem(last=False)[1].parent, ignore_errors=True)
        return self._outputs[key]


def serve(folder: Path, options: argparse.Namespace) -> tuple[str, Callable[[], object]]:
    """Listen, and return the page's address and what ends it."""
    page = _page(Studio(folder / "outputs", options.checkpoint, options.device, options.max_memory))
    theme = Default(font=_SYSTEM[0], font_mono=_SYSTEM[1])
    _, address, _ = page.queue(api_open=False).launch(
        server_name=options.host,
        server_port=options.port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=_LARGEST_UPLOAD,
        allowed_paths=[str(folder / "outputs")],
        theme=theme,
        css=_CSS,
    )
    return address, page.close


_CSS = "footer {display: none !important} .said {min-height: 3em}"


def _page(studio: Studio) -> gr.Blocks:
    first = next(iter(studio.names), None)
    with gr.Blocks(title="esrgan_lit", analytics_enabled=False) as page:
        gr.Markdown("# Enlarge a photograph\nOn this machine; nothing is sent elsewhere.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.File(label="Photograph", elem_id="photo", height=140)
                one = gr.Dropdown(studio.names, value=first, label="Weights", elem_id="weights")
                other = gr.Dropdown([_NONE, *studio.names], value=_NONE, label="Second network", elem_id="second")
                with gr.Group(visible=False) as blending:
                    alpha = gr.Slider(0, 1, 0.8, step=0.05, label="α", elem_id="alpha")
                    way = gr.Radio([_OF_NETWORKS, _OF_PICTURES], value=_OF_NETWORKS, label="What is blended")
                go = gr.Button("Enlarge", variant="primary", elem_id="go")
                with gr.Accordion("Weights of your own", open=False):
                    file = gr.File(label="A file: .safetensors, .pth, .ckpt", elem_id="file", height=120)
            with gr.Column(scale=3, min_width=300):
                said = gr.Markdown(_hint(studio), elem_id="said", elem_classes="said")
                slider = gr.ImageSlider(
                    label="Before | after", elem_id="slider", interactive=False, max_height=700, buttons=["fullscreen"]
                )
                load = gr.DownloadButton("Download PNG", elem_id="load", interactive=False)
        with gr.Accordion("What α does", open=False):
            gr.Markdown(_HELP)
        chosen = [photo, one, other, alpha, way]

        def describe(photo: str | None, one: str | None) -> str:
            if not photo or not one:
                return _hint(studio)
            return _or_error(lambda: studio.size(photo, one))

        def show(photo: str | None, one: str, other: str, alpha: float, way: str, progress: Any = gr.Progress()):  # noqa: ANN202, B008
            if not photo or not one:
                return _hint(studio), None, gr.DownloadButton(interactive=False)
            try:
                path = studio.enlarge(photo, one, other, alpha, way, lambda part: progress(part, desc="enlarging"))
                return (
                    _done(path, one, other, alpha, way),
                    (_shown(photo, path), str(path)),
                    gr.DownloadButton(value=str(path), interactive=True),
                )
            except Exception as error:
                return _in_words(error), None, gr.DownloadButton(interactive=False)

        def slide(photo: str | None, one: str, other: str, alpha: float, way: str):  # noqa: ANN202
            if photo and other != _NONE and studio.known(photo, one, other, alpha, way):
                return show(photo, one, other, alpha, way, lambda part, desc: None)
            return f"α = {alpha:g} is not computed yet: press **Enlarge**.", gr.skip(), gr.skip()

        def take(path: str | None):  # noqa: ANN202
            if not path:
                return gr.skip(), gr.skip(), gr.skip()
            try:
                name = studio.add(path)
            except Exception as error:
                return _in_words(error), gr.skip(), gr.skip()
            return (
                f"{html.escape(name)} can be chosen.",
                gr.Dropdown(studio.names, value=name),
                gr.Dropdown([_NONE, *studio.names]),
            )

        for each in (photo, one):
            each.change(describe, [photo, one], said, show_progress="hidden")
        other.change(lambda name: gr.Group(visible=name != _NONE), other, blending, show_progress="hidden")
        go.click(show, chosen, [said, slider, load])
        for event in (alpha.release, way.input):
            event(slide, chosen, [said, slider, load], show_progress="hidden")
        file.upload(take, file, [said, one, other])
    return page


def _hint(studio: Studio) -> str:
    if studio.names:
        return (
            "Drop a photograph; what it becomes, and the memory that takes, is said here before anything is computed."
        )
    return (
        "No weights are on this machine. `esrgan-upscale --list` shows which there are; or give a file of your own "
        "below, or with `esrgan-app --checkpoint FILE`."
    )


def _shown(photo: str, large: Path) -> str:
    """Return the photograph as browsers show it: a PNG, upright, beside the output."""
    path = large.with_name("before.png")
    if not path.exists():
        with written_picture(read_picture(Path(photo)), path, 95):
            pass
    return str(path)


def _done(path: Path, one: str, other: str, alpha: float, way: str) -> str:
    networks = (
        html.escape(one) if other == _NONE else f"α = {alpha:g} between {html.escape(one)} and {html.escape(other)}"
    )
    height, width = size_of(path)
    blended = " (pictures blended, not networks)" if way == _OF_PICTURES and other != _NONE and 0 < alpha < 1 else ""
    return f"{width}×{height}, {networks}{blended}"


def _or_error(say: Callable[[], str]) -> str:
    try:
        return say()
    except Exception as error:
        return _in_words(error)


def _in_words(error: Exception) -> str:
    """Return an error as one line, with no path of this machine."""
    words = " ".join(str(error).split()) or type(error).__name__
    return f"**Not enlarged:** {html.escape(re.sub(r'(?:/[^/ ]+)+/', '', words))}"
