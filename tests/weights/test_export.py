"""Every export is run by the program that it is for, and compared with PyTorch."""

import json
import re
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ncnn
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from spandrel import ImageModelDescriptor, ModelLoader

from esrgan_lit import RRDBNet, SRResNet, blend, load_generator
from esrgan_lit.networks.generator import Generator
from esrgan_lit.weights.export import SIZES, TARGETS, export_generator
from esrgan_lit.weights.runtimes import ExportError, Settings

NETWORKS = {
    "rrdb": lambda: RRDBNet(4, 1, 8, 4),
    "rrdb-skip": lambda: RRDBNet(4, 1, 8, 4, bicubic_skip=True),
    "rrdb-unshuffle": lambda: RRDBNet(2, 1, 8, 4, unshuffle=2),
    "srresnet": lambda: SRResNet(3, 1, 8),
    "srresnet-bn": lambda: SRResNet(2, 1, 8, batch_norm=True),
}


def with_values(generator: Generator) -> Generator:
    """The network with weights as large as after training, so that its output depends on the input."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * (0.02 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
            )
    return generator.eval()


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2", ".param", ".xml"])
@pytest.mark.parametrize("name", NETWORKS)
def test_programs_give_the_pixels_of_pytorch(name: str, suffix: str, half: bool, tmp_path: Path) -> None:
    if half and name != "rrdb":
        pytest.skip("one network is enough for half precision")
    exported = export_generator(with_values(NETWORKS[name]()), tmp_path / f"net{suffix}", Settings(half=half))
    assert len(exported.differences) == len(SIZES) == 3
    assert max(exported.differences.values()) < (1e-2 if half else 1e-5)
    assert sorted(tmp_path.iterdir()) == sorted(exported.files)  # and nothing beside them


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["basicsr", "esrgan", "old"])
@pytest.mark.parametrize(("scale", "unshuffle"), [(4, 1), (2, 1), (8, 1), (2, 2), (1, 4)])
def test_spandrel_loads_every_layout_and_gives_the_same_pixels(
    layout: str, suffix: str, scale: int, unshuffle: int, tmp_path: Path
) -> None:
    generator = with_values(RRDBNet(scale, 1, 32, 32, unshuffle=unshuffle))  # spandrel reads a growth of 32 only
    path = tmp_path / f"net{suffix}"
    export_generator(generator, path, Settings(layout))
    theirs = ModelLoader().load_from_file(path)
    assert isinstance(theirs, ImageModelDescriptor)
    assert (theirs.architecture.name, theirs.scale) == ("ESRGAN", scale)
    for size in SIZES:
        image = torch.rand(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(theirs.model.eval()(image), generator(image), atol=1e-6, rtol=1e-6)
    if layout == "basicsr":
        assert load_generator(path).architecture == generator.architecture


def test_files_say_where_the_weights_come_from(tmp_path: Path) -> None:
    generator = RRDBNet(4, 1, 8, 4)
    generator.metadata = {"steps": "5", "training_data": "DIV2K"}
    for suffix in (".safetensors", ".pth", ".onnx"):
        export_generator(generator, tmp_path / f"net{suffix}", Settings(metadata={"license": "CC0"}))
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        header = file.metadata()
    assert header["steps"] == "5"
    assert header["license"] == "CC0"
    assert header["scale"] == "4"
    assert header["version"]
    assert json.loads(header["architecture"]) == generator.architecture
    assert load_generator(tmp_path / "net.pth").metadata["training_data"] == "DIV2K"
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert properties["license"] == "CC0"


ANY = [["batch", 3, "height", "width"], ["batch", 3, "4*height", "4*width"]]
ONNX = {
    "any size": ({}, ANY, np.float32, np.float32),
    "half inside": ({"half": True}, ANY, np.float32, np.float16),
    "half throughout": ({"half": True, "half_io": True}, ANY, np.float16, np.float16),
    "one size, an older opset": (
        {"size": (10, 14), "opset": 16},
        [[1, 3, 10, 14], [1, 3, 40, 56]],
        np.float32,
        np.float32,
    ),
}


def shapes_for_trtexec(name: str) -> list[list[int]]:
    """Return the shapes that the documentation's line for TensorRT gives an input."""
    text = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    return [list(map(int, shape.split("x"))) for shape in re.findall(rf"(?:min|opt|max)Shapes={name}:(\S+)", text)]


@pytest.mark.slow
@pytest.mark.parametrize("case", ONNX)
def test_onnx_has_named_ends_and_what_was_asked_for(case: str, tmp_path: Path) -> None:
    options, shapes, kind, inside = ONNX[case]
    generator = with_values(RRDBNet(4, 1, 8, 4))
    export_generator(generator, tmp_path / "net.onnx", Settings(**options))
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model)
    ends = [model.graph.input[0], model.graph.output[0]]
    assert [end.name for end in ends] == ["low_res", "high_res"]
    sizes = [[size.dim_param or size.dim_value for size in end.type.tensor_type.shape.dim] for end in ends]
    assert sizes == shapes
    documented = shapes_for_trtexec(ends[0].name)
    assert len(documented) == 3
    assert {(len(shape), shape[1]) for shape in documented} == {(len(sizes[0]), sizes[0][1])}
    assert {onnx.helper.tensor_dtype_to_np_dtype(end.type.tensor_type.elem_type) for end in ends} == {np.dtype(kind)}
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert {onnx.helper.tensor_dtype_to_np_dtype(each) for each in kinds} == {np.dtype(inside)}
    assert [entry.version for entry in model.opset_import if not entry.domain] == [options.get("opset", 20)]
    height, width = options.get("size", (9, 41))
    image = torch.rand(1, 3, height, width)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"low_res": image.numpy().astype(kind)})
    with torch.inference_mode():
        np.testing.assert_allclose(output, generator(image).numpy(), atol=1e-5 if inside == np.float32 else 1e-2)


@pytest.mark.slow
def test_an_opset_that_the_network_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not fit ONNX's opset 9, but 18: give --opset 18"):
        export_generator(with_values(RRDBNet(4, 1, 8, 4)), tmp_path / "net.onnx", Settings(opset=9))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (12, 20)])
def test_ncnn_has_the_blobs_that_its_programs_ask_for(size: tuple[int, int] | None, tmp_path: Path) -> None:
    generator = with_values(RRDBNet(4, 1, 8, 4))
    export_generator(generator, tmp_path / "net.param", Settings(half=True, size=size))
    net = ncnn.Net()
    assert net.load_param(str(tmp_path / "net.param")) == 0
    assert net.load_model(str(tmp_path / "net.bin")) == 0
    assert (list(net.input_names()), list(net.output_names())) == (["data"], ["output"])
    image = torch.rand(3, *(size or (17, 23)))
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(image.numpy()).clone())
    output = np.array(extractor.extract("output")[1])
    with torch.inference_mode():
        np.testing.assert_allclose(output, generator(image[None])[0].numpy(), atol=2e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.load")
def test_pytorchs_programs_take_half_precision_and_one_size(tmp_path: Path) -> None:
    generator = with_values(RRDBNet(2, 1, 8, 4, unshuffle=2))
    export_generator(generator, tmp_path / "net.pt", Settings(half=True, half_io=True))
    assert torch.jit.load(tmp_path / "net.pt")(torch.rand(1, 3, 9, 7).half()).dtype == torch.float16
    export_generator(generator, tmp_path / "net.pt2", Settings(size=(8, 12)))
    assert torch.export.load(tmp_path / "net.pt2").module()(torch.rand(1, 3, 8, 12)).shape == (1, 3, 16, 24)


def test_settings_that_a_kind_of_file_does_not_have_are_refused(tmp_path: Path) -> None:
    cases = (
        (".xml", Settings(opset=17), r"opset 17 is for \.onnx, not for \.xml"),
        (".onnx", Settings(opset=99), r"opset 99 is not in 7 … 23"),
        (".param", Settings(half=True, half_io=True), r"for \.onnx, \.pt and \.pt2, not for \.param"),
        (".onnx", Settings(half_io=True), "give half, too"),
        (".pth", Settings(size=(8, 8)), r"one size is for .* not for \.pth"),
        (".param", Settings(size=(9, 8)), "size 9×8 does not fit this network; give multiples of 2"),
    )
    for suffix, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            export_generator(RRDBNet(2, 1, 8, 4, unshuffle=2), tmp_path / f"net{suffix}", settings)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_neither_exported_nor_blended_nor_read(tmp_path: Path) -> None:
    good, spoilt = RRDBNet(4, 1, 8, 4), RRDBNet(4, 1, 8, 4)
    with torch.no_grad():
        spoilt.conv_body.weight[0, 0, 0, 0] = torch.inf
    message = r"1 of 576 values of conv_body\.weight are NaN or infinite"
    for suffix in TARGETS:
        with pytest.raises(ValueError, match=message):
            export_generator(spoilt, tmp_path / f"net{suffix}")
    with pytest.raises(ValueError, match=message):
        blend([good, spoilt], [1, 0])
    assert list(tmp_path.iterdir()) == []
    spoilt.save_pretrained(tmp_path / "hub")
    with pytest.raises(ValueError, match=rf"model\.safetensors: {message}"):
        RRDBNet.from_pretrained(tmp_path / "hub")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_a_full_disk_ends_an_export_in_one_line_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses to write more."""
    (tmp_path / f"net{suffix}").write_text("what was there before")
    generator = with_values(RRDBNet(4, 2, 16, 16))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=rf"net\{suffix} could not be written \(File too large\), and nothing of it"):
            export_generator(generator, tmp_path / f"net{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there before"]


def test_room_and_folder_are_looked_at_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = RRDBNet(4, 1, 8, 4)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/net\.pth could not be written \((File exists|Not a directory)\)"):
        export_generator(generator, tmp_path / "file" / "net.pth")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"net\.param could not be written \(it takes about \d+ kB, and 1 kB are free\)"):
        export_generator(generator, tmp_path / "net.param")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_an_export_that_differs_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = with_values(RRDBNet(4, 1, 8, 4))
    for suffix in (".onnx", ".safetensors", ".param"):
        (tmp_path / f"net{suffix}").write_text("what was there before")

    def off_by_a_little(path: Path, settings: Settings) -> Any:
        other = RRDBNet(4, 1, 8, 4).eval()
        other.load_state_dict(generator.state_dict())
        with torch.no_grad():
            other.conv_last.bias += 0.01
        return lambda image: other(torch.from_numpy(image)).detach().numpy()

    targets = TARGETS
    for suffix in (".onnx", ".safetensors", ".param"):
        monkeypatch.setitem(targets, suffix, targets[suffix]._replace(run=off_by_a_little))
        with pytest.raises(ExportError, match=r"differs from PyTorch by 0\.01 .*it is not kept"):
            export_generator(generator, tmp_path / f"net{suffix}")
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.safetensors", "net.param"}
    assert all(path.read_text() == "what was there before" for path in tmp_path.iterdir())


@pytest.mark.slow
def test_half_precision_that_overflows_is_refused(tmp_path: Path) -> None:
    generator = with_values(RRDBNet(4, 1, 8, 4))
    with torch.no_grad():
        generator.conv_first.weight *= 1e6  # beyond half precision's 65,504: black images
        generator.conv_last.weight *= 1e-6
    export_generator(generator, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="try without half precision"):
        export_generator(generator, tmp_path / "half.onnx", Settings(half=True))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_what_other_programs_would_read_wrongly_is_refused(tmp_path: Path) -> None:
    cases = (
        (RRDBNet(4, 1, 8, 4, bicubic_skip=True), ".pth", "basicsr", "a bicubic skip"),
        (RRDBNet(3, 1, 8, 4), ".pth", "old", "scale 3"),
        (RRDBNet(3, 1, 8, 4), ".safetensors", "old", "scale 3"),
        (SRResNet(4, 1, 8, batch_norm=True), ".pth", "basicsr", "batch normalization"),
        (SRResNet(4, 1, 8), ".pth", "old", "does not name the layers of SRResNet; use basicsr"),
        (
            RRDBNet(4, 1, 8, 4, plus=True),
            ".pth",
            "basicsr",
            "do not know ESRGAN.* give the layout old, or write a slim",
        ),
        (RRDBNet(4, 1, 8, 4), ".bin", "basicsr", "does not end in one of .safetensors, .pth, .onnx"),
        (RRDBNet(4, 1, 8, 4), ".pth", "new", "layout 'new' is not known; use one of basicsr, esrgan, old"),
    )
    for generator, suffix, layout, message in cases:
        with pytest.raises(ValueError, match=message):
            export_generator(generator, tmp_path / f"net{suffix}", Settings(layout))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "module"), [(".onnx", "onnxscript"), (".xml", "openvino"), (".param", "pnnx")])
def test_without_the_extra_the_message_names_it(
    suffix: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'esrgan_lit\[export\]'"):
        export_generator(RRDBNet(4, 1, 8, 4), tmp_path / f"net{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_weights_take_half_the_room(tmp_path: Path) -> None:
    generator = with_values(RRDBNet(4, 2, 16, 16))
    export_generator(generator, tmp_path / "a.safetensors")
    export_generator(generator, tmp_path / "b.safetensors", Settings(half=True))
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in "ab"]
    assert sizes[1] < 0.6 * sizes[0]
    image = torch.rand(1, 3, 9, 7)
    with torch.inference_mode():
        outputs = [load_generator(tmp_path / f"{name}.safetensors")(image).numpy() for name in "ab"]
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 1e-2
