"""What computes a generator's convolutions: PyTorch, OpenVINO, ONNX Runtime, ncnn or winograd.cpp, by one interface.

An engine computes runs of the trunk's blocks, and the finish (the trunk's last convolution, the long skip and the
tail's convolutions). What is cheap stays in PyTorch: the first convolution and the image skip. The other programs get
their graphs from the weights directly, in memory and in seconds, for any image size, in float32.
"""

import copy
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from esrgan_lit.inference import winograd
from esrgan_lit.networks.dense_block import ResidualDenseBlock
from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.rrdbnet import ResidualInResidualDenseBlock, RRDBNet
from esrgan_lit.networks.srresnet import ResidualBlock

EngineName = Literal["torch", "openvino", "onnxruntime", "ncnn", "winograd"]
ENGINES: tuple[EngineName, ...] = ("torch", "openvino", "onnxruntime", "ncnn", "winograd")

_NEEDED = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "ncnn": ("ncnn",),
    "winograd": (),  # a C++ compiler
}

Blocks = Callable[[Tensor], Tensor]
Finish = Callable[[Tensor, Tensor], Tensor]
Node = TypeVar("Node")


class Engine(Protocol):
    """Computes a generator's parts on features (1, width, height, width)."""

    @property
    def name(self) -> EngineName:
        """The program's name."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What features are kept in."""
        ...

    @property
    def device(self) -> torch.device:
        """Where features are kept."""
        ...

    @property
    def working_floats(self) -> tuple[float, float]:
        """Most values held at once, per feature pixel, within blocks and within the finish."""
        ...

    @property
    def preparation_bytes(self) -> int:
        """Bytes of weights that will be taken when parts are first asked for."""
        ...

    def head(self, low_res: Tensor) -> Tensor:
        """Image (1, channels, height, width) → features, the first convolution."""
        ...

    def blocks(self, first: int, last: int) -> Blocks:
        """The trunk's blocks ``first … last - 1``: features → features."""
        ...

    def finish(self) -> Finish:
        """What follows the blocks: (features, the head's features) → image, without the image skip."""
        ...


def installed() -> list[EngineName]:
    """The engines whose programs are installed, PyTorch first."""
    return [
        name
        for name in ENGINES
        if all(importlib.util.find_spec(module) for module in _NEEDED[name])
        and (name != "winograd" or winograd.available())
    ]


def make_engine(
    name: EngineName,
    generator: Generator,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> Engine:
    """Give an engine a generator's weights.

    Args:
        name: which. Others than ``torch`` compute in float32 on the CPU.
        generator: it is copied, and left as it is.
        device: of ``torch``.
        dtype: of ``torch``.
        compiled: compile ``torch``'s parts with Inductor, which takes a minute and a C++ compiler.

    Raises:
        ValueError: when the program is not installed, or cannot do what is asked.
    """
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is not known; use one of {', '.join(ENGINES)}, or auto")
    if name == "winograd":
        winograd.library()  # says what is missing
    elif name not in installed():
        raise ValueError(f"engine {name} is not installed; get it with: pip install 'esrgan_lit[{name}]'")
    device = device or torch.device("cpu")
    _load("torch")  # computes every engine's first convolution
    if name == "torch":
        return TorchEngine(generator, device, dtype, compiled)
    if device.type != "cpu" or dtype != torch.float32 or compiled:
        raise ValueError(
            f"engine {name} computes in float32 on the CPU here, not in {dtype} on {device}; use --engine torch"
        )
    _load(name)
    return GraphEngine(name, generator)


class TorchEngine:
    """PyTorch, channels last, on any device and in any precision."""

    name: EngineName = "torch"
    preparation_bytes = 0

    def __init__(self, generator: Generator, device: torch.device, dtype: torch.dtype, compiled: bool) -> None:
        self.device, self.dtype = device, dtype
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.generator.to(device, dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._compiled = compiled

    @property
    def working_floats(self) -> tuple[float, float]:
        width, widest, enlarged = _sizes(self.generator)
        return 3.2 * widest + 4 * width, 4.5 * width * enlarged

    def head(self, low_res: Tensor) -> Tensor:
        return head_of(self.generator, low_res.contiguous(memory_format=torch.channels_last))

    def blocks(self, first: int, last: int) -> Blocks:
        chain = [self._maybe_compiled(block) for block in body_of(self.generator)[first:last]]

        def run(features: Tensor) -> Tensor:
            for block in chain:
                features = block(features)
            return features

        return run

    def finish(self) -> Finish:
        generator = self.generator

        def run(features: Tensor, head: Tensor) -> Tensor:
            if isinstance(generator, RRDBNet):
                features = head + generator.conv_body(features)
                for number, factor in enumerate(generator.steps, start=1):
                    enlarged = F.interpolate(features, scale_factor=factor, mode="nearest")
                    features = F.leaky_relu(generator.get_submodule(f"conv_up{number}")(enlarged), 0.2, inplace=True)
                return generator.conv_last(F.leaky_relu(generator.conv_hr(features), 0.2, inplace=True))
            for number, factor in enumerate(cast(Any, generator).steps, start=1):
                enlarged = F.pixel_shuffle(generator.get_submodule(f"upconv{number}")(features), factor)
                features = F.leaky_relu(enlarged, 0.1, inplace=True)
            hr, last = generator.get_submodule("conv_hr"), generator.get_submodule("conv_last")
            return last(F.leaky_relu(hr(features), 0.1, inplace=True))

        return self._maybe_compiled(run)

    def _maybe_compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # Blocks share their code: with their weights as its inputs it is compiled once for all of them.
        return torch.compile(function) if self._compiled else function


class GraphEngine:
    """A program that computes graphs: each part is drawn once, for any size, when it is first asked for."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, name: EngineName, generator: Generator) -> None:
        self.name: EngineName = name
        self.generator = copy.deepcopy(generator).cpu().float().eval().requires_grad_(False)
        self._parts: dict[tuple[int, int] | str, Callable[..., Tensor]] = {}

    @property
    def working_floats(self) -> tuple[float, float]:
        width, widest, enlarged = _sizes(self.generator)
        within_blocks, within_finish, _ = _WORKING[self.name]
        return within_blocks * widest + 4 * width, within_finish * width * enlarged

    @property
    def preparation_bytes(self) -> int:
        return 0 if self._parts else prepared_bytes(self.name, self.generator)

    def head(self, low_res: Tensor) -> Tensor:
        return head_of(self.generator, low_res)

    def blocks(self, first: int, last: int) -> Blocks:
        if (first, last) not in self._parts:
            # parts of another length go, so that the weights are held once
            for key in [key for key in self._parts if isinstance(key, tuple) and key[1] - key[0] != last - first]:
                del self._parts[key]
            graph = _GRAPHS[self.name]()
            node = graph.input(self.generator.architecture["width"])
            for block in body_of(self.generator)[first:last]:
                node = draw_block(graph, node, block)
            self._parts[first, last] = graph.built(node)
        return self._parts[first, last]

    def finish(self) -> Finish:
        if "finish" not in self._parts:
            graph = _GRAPHS[self.name]()
            width = self.generator.architecture["width"]
            features, head = graph.input(width), graph.input(width)
            self._parts["finish"] = graph.built(draw_finish(graph, features, head, self.generator))
        return self._parts["finish"]


def prepared_bytes(name: EngineName, generator: Generator) -> int:
    """Bytes that an engine's own form of a generator's weights takes beside the generator."""
    weights = sum(parameter.numel() * parameter.itemsize for parameter in generator.parameters())
    return int(weights * _WORKING[name][2]) if name in _WORKING else 0


@cache
def _load(name: EngineName) -> None:
    """Have a program run once, so that what it takes for itself shows in the process before images are planned."""
    if name == "torch":
        F.conv2d(torch.zeros(1, 16, 32, 32), torch.zeros(16, 16, 3, 3), padding=1)
        return
    graph = _GRAPHS[name]()
    convolution = graph.conv(graph.input(1), np.zeros((1, 1, 3, 3), np.float32), np.zeros(1, np.float32), None)
    graph.built(convolution)(torch.zeros(1, 1, 8, 8))


def head_of(generator: Generator, low_res: Tensor) -> Tensor:
    """What a generator computes before its first block."""
    features = cast(nn.Module, generator.conv_first)(F.pixel_unshuffle(low_res, generator.unshuffle))
    return features if isinstance(generator, RRDBNet) else F.leaky_relu(features, 0.1)


def image_skip_of(generator: Generator, low_res: Tensor) -> Tensor | None:
    """The enlarged input that a generator adds to its image, if it does."""
    if isinstance(generator, RRDBNet):
        if not generator.bicubic_skip:
            return None
        return F.interpolate(low_res, scale_factor=generator.scale, mode="bicubic", antialias=True)
    if generator.architecture["batch_norm"]:
        return None
    return F.interpolate(low_res, scale_factor=generator.scale, mode="bilinear", align_corners=False)


def body_of(generator: Generator) -> nn.Sequential:
    """A generator's blocks."""
    return cast(nn.Sequential, generator.body)


def block_reach(generator: Generator) -> int:
    """How many pixels around it each output of a block depends on: one for each 3×3 convolution in a row."""
    return 15 if isinstance(generator, RRDBNet) else 2


def _sizes(generator: Generator) -> tuple[int, int, int]:
    """Channels between blocks, most channels within one, and output pixels per feature pixel."""
    width = generator.architecture["width"]
    widest = width + 4 * generator.architecture["growth"] if isinstance(generator, RRDBNet) else 2 * width
    return width, widest, (generator.scale * generator.unshuffle) ** 2


# ---- the networks, drawn once for all programs ----


class Graph(Protocol[Node]):
    """Takes down a network layer by layer, in a program's own format."""

    def input(self, channels: int) -> Node:
        """Another input, (1, channels, any height, any width)."""
        ...

    def conv(self, x: Node, weight: np.ndarray, bias: np.ndarray, slope: float | None) -> Node:
        """3×3 convolution with padding 1 and, where a slope is given, a leaky ReLU."""
        ...

    def concat(self, nodes: Sequence[Node]) -> Node:
        """Concatenate channels."""
        ...

    def add(self, x: Node, y: Node, factor: float) -> Node:
        """``x + factor · y``."""
        ...

    def nearest(self, x: Node, factor: int) -> Node:
        """Repeat each pixel ``factor`` times both ways."""
        ...

    def shuffle(self, x: Node, factor: int) -> Node:
        """Pixel shuffle."""
        ...

    def built(self, output: Node) -> Callable[..., Tensor]:
        """Give the graph to the program."""
        ...


def draw_block(graph: Graph[Node], x: Node, block: nn.Module) -> Node:
    """Draw one of the trunk's blocks."""
    if isinstance(block, ResidualInResidualDenseBlock):
        features = x
        for dense in (block.rdb1, block.rdb2, block.rdb3):
            features = _draw_dense(graph, features, dense)
        return graph.add(x, features, 0.2)
    assert isinstance(block, ResidualBlock)
    first, second = (
        conv if isinstance(norm, nn.Identity) else fuse_conv_bn_eval(conv, cast(nn.BatchNorm2d, norm))
        for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2))
    )
    return graph.add(x, _draw_conv(graph, _draw_conv(graph, x, first, 0.0), second), 1.0)


def draw_finish(graph: Graph[Node], features: Node, head: Node, generator: Generator) -> Node:
    """Draw what follows the blocks."""
    slope = 0.1
    if isinstance(generator, RRDBNet):
        slope = 0.2
        features = graph.add(head, _draw_conv(graph, features, generator.conv_body), 1.0)
        for number, factor in enumerate(generator.steps, start=1):
            convolution = generator.get_submodule(f"conv_up{number}")
            features = _draw_conv(graph, graph.nearest(features, factor), convolution, slope)
    else:
        for number, factor in enumerate(cast(Any, generator).steps, start=1):
            # the activation may come before the shuffle, which only moves values
            convolution = generator.get_submodule(f"upconv{number}")
            features = graph.shuffle(_draw_conv(graph, features, convolution, slope), factor)
    features = _draw_conv(graph, features, generator.get_submodule("conv_hr"), slope)
    return _draw_conv(graph, features, generator.get_submodule("conv_last"))


def _draw_dense(graph: Graph[Node], x: Node, block: ResidualDenseBlock) -> Node:
    seen = [x]
    for convolution in (block.conv1, block.conv2, block.conv3, block.conv4):
        seen.append(_draw_conv(graph, graph.concat(seen), convolution, 0.2))
    return graph.add(x, _draw_conv(graph, graph.concat(seen), block.conv5), 0.2)


def _draw_conv(graph: Graph[Node], x: Node, convolution: nn.Module, slope: float | None = None) -> Node:
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is not None
    return graph.conv(x, convolution.weight.numpy(), convolution.bias.numpy(), slope)


class OpenVinoGraph:
    """OpenVINO's operations."""

    def __init__(self) -> None:
        import openvino
        from openvino import opset13

        self._openvino, self._operations = openvino, opset13
        self._inputs: list[Any] = []

    def input(self, channels: int) -> Any:
        self._inputs.append(self._operations.parameter([1, channels, -1, -1], np.float32))
        return self._inputs[-1]

    def conv(self, x: Any, weight: np.ndarray, bias: np.ndarray, slope: float | None) -> Any:
        ops = self._operations
        y = ops.convolution(x, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
        y = ops.add(y, ops.constant(bias.reshape(1, -1, 1, 1)))
        return y if slope is None else ops.prelu(y, ops.constant(np.array([slope], np.float32)))

    def concat(self, nodes: Sequence[Any]) -> Any:
        return self._operations.concat(list(nodes), 1) if len(nodes) > 1 else nodes[0]

    def add(self, x: Any, y: Any, factor: float) -> Any:
        ops = self._operations
        return ops.add(x, y if factor == 1 else ops.multiply(y, ops.constant(np.float32(factor))))

    def nearest(self, x: Any, factor: int) -> Any:
        ops = self._operations
        return ops.interpolate(
            x,
            ops.constant(np.array([factor, factor], np.float32)),
            "nearest",
            "scales",
            axes=ops.constant([2, 3]),
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )

    def shuffle(self, x: Any, factor: int) -> Any:
        return self._operations.depth_to_space(x, "depth_first", factor)

    def built(self, output: Any) -> Callable[..., Tensor]:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bfloat16 where the processor has it
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        model = self._openvino.Model([output], self._inputs)
        compiled = _openvino_core().compile_model(model, "CPU", settings)

        def run(*inputs: Tensor) -> Tensor:
            result = compiled([x.contiguous().numpy() for x in inputs])[0]
            image = torch.from_numpy(np.array(result))  # its own buffer is freed with the line below
            compiled.release_memory()
            return image

        return run


@cache
def _openvino_core() -> Any:
    import openvino

    return openvino.Core()


class OnnxGraph:
    """ONNX's operations, for ONNX Runtime."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy_helper = helper, numpy_helper
        self._inputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def input(self, channels: int) -> str:
        name = f"input{len(self._inputs)}"
        self._inputs.append(self._helper.make_tensor_value_info(name, 1, [1, channels, "height", "width"]))  # 1: float
        return name

    def conv(self, x: str, weight: np.ndarray, bias: np.ndarray, slope: float | None) -> str:
        y = self._node("Conv", [x, self._constant(weight), self._constant(bias)], pads=[1, 1, 1, 1])
        return y if slope is None else self._node("LeakyRelu", [y], alpha=slope)

    def concat(self, nodes: Sequence[str]) -> str:
        return self._node("Concat", nodes, axis=1) if len(nodes) > 1 else nodes[0]

    def add(self, x: str, y: str, factor: float) -> str:
        if factor != 1:
            y = self._node("Mul", [y, self._constant(np.array(factor, np.float32))])
        return self._node("Add", [x, y])

    def nearest(self, x: str, factor: int) -> str:
        scales = self._constant(np.array([1, 1, factor, factor], np.float32))
        how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        return self._node("Resize", [x, "", scales], **how)

    def shuffle(self, x: str, factor: int) -> str:
        return self._node("DepthToSpace", [x], blocksize=factor, mode="CRD")

    def built(self, output: str) -> Callable[..., Tensor]:
        import onnxruntime

        result = self._helper.make_tensor_value_info(output, 1, None)
        graph = self._helper.make_graph(self._nodes, "part", self._inputs, [result], self._constants)
        model = self._helper.make_model(graph, opset_imports=[self._helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_cpu_mem_arena = False  # an arena for each part would keep its peak for ever
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def run(*inputs: Tensor) -> Tensor:
            given = {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
            return torch.from_numpy(session.run(None, given)[0])

        return run

    def _node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"node{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _constant(self, values: np.ndarray) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(self._numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


class NcnnGraph:
    """ncnn's text of layers and file of weights (https://github.com/Tencent/ncnn/wiki/operators)."""

    def __init__(self) -> None:
        self._layers: list[tuple[str, list[str], str, str]] = []
        self._inputs: list[str] = []
        self._weights = io.BytesIO()

    def input(self, channels: int) -> str:
        self._inputs.append(self._layer("Input", [], ""))
        return self._inputs[-1]

    def conv(self, x: str, weight: np.ndarray, bias: np.ndarray, slope: float | None) -> str:
        self._weights.write(bytes(4))  # marks float32
        self._weights.write(np.ascontiguousarray(weight, np.float32).tobytes())
        self._weights.write(np.ascontiguousarray(bias, np.float32).tobytes())
        activation = "" if slope is None else f" 9=2 -23310=1,{slope}"
        return self._layer("Convolution", [x], f"0={len(weight)} 1=3 4=1 5=1 6={weight.size}{activation}")

    def concat(self, nodes: Sequence[str]) -> str:
        return self._layer("Concat", nodes, "0=0") if len(nodes) > 1 else nodes[0]

    def add(self, x: str, y: str, factor: float) -> str:
        return self._layer("Eltwise", [x, y], f"0=1 -23301=2,1.0,{factor}")

    def nearest(self, x: str, factor: int) -> str:
        return self._layer("Interp", [x], f"0=1 1={factor}.0 2={factor}.0")

    def shuffle(self, x: str, factor: int) -> str:
        return self._layer("PixelShuffle", [x], f"0={factor}")

    def built(self, output: str) -> Callable[..., Tensor]:
        ncnn: Any = importlib.import_module("ncnn")  # its type stubs lack what it has
        net = ncnn.Net()
        net.opt.num_threads = torch.get_num_threads()
        net.opt.use_vulkan_compute = False
        pools = ncnn.PoolAllocator(), ncnn.PoolAllocator()  # its own ones would keep their peak for ever
        net.opt.blob_allocator, net.opt.workspace_allocator = pools
        for pool in pools:
            pool.set_size_compare_ratio(0)  # any larger piece that is free is taken again
        for narrow in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
            setattr(net.opt, f"use_{narrow}", False)  # bfloat16 storage is 4e-2 off
        handle, path = tempfile.mkstemp(".bin")  # from memory it would refer to bytes that Python frees
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._weights.getbuffer())
            if net.load_param_mem(self._text()) or net.load_model(path):
                raise RuntimeError("ncnn does not take this network; use another engine")
        finally:
            Path(path).unlink()

        def run(*inputs: Tensor) -> Tensor:
            arrays = [x[0].contiguous().numpy() for x in inputs]  # ncnn refers to them
            extractor = net.create_extractor()
            for name, array in zip(self._inputs, arrays, strict=True):
                extractor.input(name, ncnn.Mat(array))
            status, result = extractor.extract(output)
            if status:
                raise MemoryError("ncnn could not compute this tile: out of memory")
            image = torch.from_numpy(np.array(result))[None]
            del result, extractor  # what the pools gave must be back before they are cleared
            for pool in pools:
                pool.clear()
            return image

        return run

    def _layer(self, kind: str, inputs: Sequence[str], parameters: str) -> str:
        name = f"n{len(self._layers)}"
        self._layers.append((kind, list(inputs), name, parameters))
        return name

    def _text(self) -> str:
        """The layers, with a Split after each whose output has several readers, which ncnn wants."""
        readers: dict[str, int] = {}
        for _, inputs, _, _ in self._layers:
            for name in inputs:
                readers[name] = readers.get(name, 0) + 1
        served: dict[str, int] = {}

        def serve(name: str) -> str:
            if readers[name] == 1:
                return name
            served[name] = served.get(name, 0) + 1
            return f"{name}_{served[name]}"

        lines, blobs = [], 0
        for kind, inputs, name, parameters in self._layers:
            given = [serve(read) for read in inputs]
            lines.append(" ".join(filter(None, [kind, name, str(len(given)), "1", *given, name, parameters])))
            blobs += 1
            if (copies := readers.get(name, 0)) > 1:
                names = [f"{name}_{number}" for number in range(1, copies + 1)]
                lines.append(" ".join(["Split", f"{name}s", "1", str(copies), name, *names]))
                blobs += copies
        return "\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""])


_GRAPHS: dict[str, type] = {
    "openvino": OpenVinoGraph,
    "onnxruntime": OnnxGraph,
    "ncnn": NcnnGraph,
    "winograd": winograd.WinogradGraph,
}

# Values held at once: the widest features so many times (beside four times a block's width) within blocks, and the
# enlarged features so many times within the finish; and the weights' bytes, so many times their own. Measured on widths
# of 32 and 64 and growths of 8 to 32, ×2 and ×4, and a fifth or more added, because each version allocates otherwise:
# a strip that is too low costs some percent of time. Check them with benchmarks/upscale.py --memory.
_WORKING = {
    "openvino": (5.5, 6.5, 3.0),
    "onnxruntime": (9.0, 10.0, 3.0),
    "ncnn": (20.0, 15.0, 12.0),
    "winograd": (3.0, 3.0, 9.5),
}
