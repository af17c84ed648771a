"""Convolutions by Winograd's minimal filtering on the CPU: a network's operations as steps of winograd.cpp.

A dense block's five convolutions read each other's outputs. The transformation that makes a 3×3 convolution cheap is
done once for each of its 192 channels, where programs that compute one convolution after the other do it 640 times.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.memory import Needs
from esrgan_lit.inference.tracing import Computed, Convolution, Features, Shuffled, Trace, UntraceableError, take_down
from esrgan_lit.networks.generator import Generator

WORKSPACE = 48 * 2**20
"""Bytes that winograd.cpp takes for rings and transformed filters, at most."""


class _Step(ctypes.Structure):
    """One convolution: winograd.cpp's ``Step``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("input", "filters", "bias", "skip1", "skip2", "output")),
        *((name, ctypes.c_float) for name in ("factor1", "factor2", "slope")),
        *((name, ctypes.c_int32) for name in ("height", "width", "enlarge", "seen", "fresh", "given")),
        *((name, ctypes.c_int32) for name in ("depth", "outputs", "stored", "joined")),
    ]


class WinogradEngine:
    """winograd.cpp, which computes a network in float32 on the CPU; a head that it does not compute is PyTorch's.

    Args:
        generator: on the CPU, in float32 and evaluation mode. Its filters are copied in winograd.cpp's order.

    Raises:
        UntraceableError: when the generator computes what winograd.cpp does not.
        ValueError: see :func:`esrgan_lit.inference.winograd_library.library`.
    """

    name = "winograd"
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, generator: Generator) -> None:
        self.library = winograd_library.library()
        self.group: int = self.library.group_size()
        self.generator = generator
        width = generator.head(torch.zeros(1, generator.channels, *[8 * generator.unshuffle] * 2)).shape[1]
        self._blocks = [take_down(block, width) for block in generator.blocks]
        self._tail = take_down(generator.tail, width, width)
        try:
            self._head = take_down(generator.head, generator.channels)
        except UntraceableError:
            self._head = None
        nodes = [node for trace in (self._head, *self._blocks, self._tail) if trace for node in trace.computed]
        self.weights = {node: self._laid_out(node) for node in nodes if isinstance(node, Convolution)}
        self.needs = self._needs(width)

    def head(self, low_res: Tensor) -> Tensor:
        """Image (1, channels, height, width) → features."""
        return _Program(self, [self._head], {})(low_res) if self._head else self.generator.head(low_res)

    def blocks(self, at_once: int) -> list[Callable[[Tensor], Tensor]]:
        """Return what computes so many blocks each, one after the other. They may overwrite what they are given."""
        held: dict[int, Tensor] = {}
        parts = [self._blocks[first : first + at_once] for first in range(0, len(self._blocks), at_once)]
        return [_Program(self, part, held, overwrite=True) for part in parts]

    def tail(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what computes the tail."""
        return _Program(self, [self._tail], {})

    def padded(self, channels: int) -> int:
        """Round channels up to what winograd.cpp computes at once."""
        return -(-channels // self.group) * self.group

    def _laid_out(self, node: Convolution) -> tuple[Tensor, Tensor]:
        """Filters (outputs, inputs, 3, 3) and bias, as winograd.cpp wants them."""
        outputs = self.padded(node.channels)
        parts = node.weight.split([part.channels for part in node.parts], 1)
        padded = [F.pad(part, (0, 0, 0, 0, 0, self.padded(part.shape[1]) - part.shape[1])) for part in parts]
        filters = F.pad(torch.cat(padded, 1), (0, 0, 0, 0, 0, 0, 0, outputs - node.channels))
        filters = filters.permute(2, 3, 0, 1).unflatten(2, (-1, self.group)).transpose(3, 4)
        return filters.contiguous(), F.pad(node.bias, (0, outputs - node.channels))

    def _needs(self, width: int) -> Needs:
        """Values for each feature pixel: images that are held whole, and what PyTorch holds beside them."""
        blocks = max(_Program(self, [block], {}, overwrite=True).values for block in self._blocks)
        tail = _Program(self, [self._tail], {}).values
        image = self._tail.output.channels * self._tail.output.scale**2
        head = width if self._head else 2 * width  # PyTorch's is laid out anew
        return Needs(width, blocks, tail + head + 2 * image, WORKSPACE)


class _Program:
    """Some parts of a network, one after the other: features (1, channels, height, width) of each input → of the last.

    Images that only the next convolution reads are never whole: winograd.cpp computes both in one wave. The others
    have numbered places, which they share where their times allow it; those of the inputs come first.

    Args:
        engine: has the weights.
        traces: of the parts.
        held: memory of the places between calls. Programs that run one after the other share it.
        overwrite: results may be written where the inputs are.
    """

    def __init__(
        self, engine: WinogradEngine, traces: Sequence[Trace], held: dict[int, Tensor], overwrite: bool = False
    ) -> None:
        self.engine, self.held = engine, held
        self.inputs, self.output = traces[0].inputs, traces[-1].output
        self.computed = [node for trace in traces for node in trace.computed]
        self.same: dict[Features, Features] = {after.inputs[0]: before.output for before, after in pairwise(traces)}
        self.last_reader: dict[Features, int] = {self.output: len(self.computed)}
        for number, node in enumerate(self.computed):
            for read in self._reads(node):
                self.last_reader[read] = number
        self.chains = self._chains()
        self.places: dict[Features, int] = {node: number for number, node in enumerate(self.inputs)}
        self._assign_places(overwrite)

    def __call__(self, *inputs: Tensor) -> Tensor:
        height, width = inputs[0].shape[-2:]
        images = {node: _to_memory(x) for node, x in zip(self.inputs, inputs, strict=True)}
        memory = {self.places[node]: image for node, image in images.items()}
        steps: list[_Step] = []
        for chain in self.chains:
            last = chain[-1]
            if isinstance(last, Shuffled):
                self._compute(steps)
                images[last] = _shuffled(images[self.same.get(last.x, last.x)], last.factor)
                continue
            for node in chain:
                if node in self.places:
                    images[node] = self._image(node, memory, node.scale * height, node.scale * width)
            steps.extend(self._steps(chain, images, height, width))
        self._compute(steps)
        self.held.update({place: image for place, image in memory.items() if place >= len(self.inputs)})
        self.held.pop(self.places.get(self.output, -1), None)  # it is the caller's now
        return images[self.output].permute(2, 0, 1)[None]

    def _reads(self, node: Computed) -> list[Features]:
        """List what a node reads as images; parts of a concatenation but the last were transformed by earlier ones."""
        reads = [node.x] if isinstance(node, Shuffled) else [node.parts[-1], *(skip for skip, _ in node.skips)]
        return [self.same.get(read, read) for read in reads]

    def _chains(self) -> list[list[Computed]]:
        """Part what is computed into what goes through winograd.cpp as one wave: dense blocks, and others."""
        chains: list[list[Computed]] = []
        dense = False
        for number, node in enumerate(self.computed):
            before = chains[-1][-1] if chains else None
            goes_on = isinstance(node, Convolution) and len(node.parts) > 1
            begins = not goes_on and self._begins_dense(number)
            joined = goes_on
            if isinstance(node, Convolution) and isinstance(before, Convolution) and not goes_on:
                joined = not dense and not begins and self._is_hidden(before, number)
            chains[-1].append(node) if joined else chains.append([node])
            dense = goes_on or begins
        return chains

    def _begins_dense(self, number: int) -> bool:
        node, *after = self.computed[number : number + 2]
        follows = after[0] if after else None
        return isinstance(node, Convolution) and isinstance(follows, Convolution) and follows.parts[:-1] == node.parts

    def _is_hidden(self, node: Features, reader: int) -> bool:
        """Whether only one step reads an image, and that as its input alone."""
        reads = self._reads(self.computed[reader])
        return self.last_reader.get(node) == reader and reads.count(node) == 1 and reads[0] is node

    def _assign_places(self, overwrite: bool) -> None:
        kinds = {place: (node.channels, 1) for place, node in enumerate(self.inputs)}
        kept = () if overwrite else tuple(range(len(self.inputs)))
        number = 0
        for chain in self.chains:
            busy = {place for node, place in self.places.items() if self.last_reader.get(node, 0) >= number}
            free = [place for place in kinds if place not in busy and place not in kept]
            for node in chain:
                number += 1
                if isinstance(node, Shuffled) or (node is not chain[-1] and self._is_hidden(node, number)):
                    continue
                kind = (node.channels, node.scale)
                overwritten = self._overwritten(chain, number) if node is chain[-1] else []
                usable = [place for place in overwritten + free if kinds[place] == kind and place not in kept]
                place = min(usable, default=len(kinds))  # the input's first: then the others' memory is held on
                free = [other for other in free if other != place]
                kinds[place] = kind
                self.places[node] = place
        self.values = sum(channels * scale**2 for channels, scale in list(kinds.values())[len(self.inputs) :])

    def _overwritten(self, chain: list[Computed], after: int) -> list[int]:
        """List the places where the last of a chain may write though the chain reads them.

        It reads skips at the pixel that it writes, and in a wave it is behind what reads the wave's input.
        """
        source, *skips = self._reads(chain[-1])
        reads = [*skips, *(self._reads(chain[0])[:1] if len(chain) > 1 else [])]
        return [
            self.places[read]
            for read in reads
            if read is not source and read in self.places and self.last_reader[read] < after
        ]

    def _image(self, node: Computed, memory: dict[int, Tensor], height: int, width: int) -> Tensor:
        """Return the memory of a node's place."""
        place, shape = self.places[node], (height, width, node.channels)
        if place not in memory:
            held = self.held.get(place)
            memory[place] = held if held is not None and held.shape == shape else torch.empty(shape)
        return memory[place]

    def _steps(self, chain: list[Computed], images: dict[Features, Tensor], height: int, width: int) -> Iterator[_Step]:
        convolutions = [node for node in chain if isinstance(node, Convolution)]
        parts = convolutions[-1].parts
        depth = sum(self.engine.padded(part.channels) for part in parts) if len(parts) > 1 else 0
        for node in convolutions:
            weights, bias = self.engine.weights[node]
            source, *skips = self._reads(node)
            added = [(images[skip].data_ptr(), factor) for skip, (_, factor) in zip(skips, node.skips, strict=True)]
            added += [(None, 0.0), (None, 0.0)]
            yield _Step(
                input=images[source].data_ptr() if source in images else None,
                filters=weights.data_ptr(),
                bias=bias.data_ptr(),
                skip1=added[0][0],
                skip2=added[1][0],
                output=images[node].data_ptr() if node in images else None,
                factor1=added[0][1],
                factor2=added[1][1],
                slope=1 if node.slope is None else node.slope,
                height=node.scale * height,
                width=node.scale * width,
                enlarge=node.enlarge,
                seen=sum(self.engine.padded(part.channels) for part in node.parts[:-1]),
                fresh=self.engine.padded(node.parts[-1].channels),
                given=node.parts[-1].channels,
                depth=depth,
                outputs=len(bias),
                stored=node.channels,
                joined=node is not chain[0],
            )

    def _compute(self, steps: list[_Step]) -> None:
        threads = torch.get_num_threads()
        if steps and self.engine.library.run((_Step * len(steps))(*steps), len(steps), threads):
            raise MemoryError("winograd could not compute this tile: out of memory")
        steps.clear()


def _to_memory(x: Tensor) -> Tensor:
    """(1, channels, height, width) → (height, width, channels), as winograd.cpp wants it."""
    return x[0].permute(1, 2, 0).contiguous()


def _shuffled(image: Tensor, factor: int) -> Tensor:
    """Pixel shuffle of (height, width, channels)."""
    height, width, _ = image.shape
    cells = image.unflatten(2, (-1, factor, factor)).permute(0, 3, 1, 4, 2)
    return cells.reshape(height * factor, width * factor, -1).contiguous()  # of one pixel it is a view
