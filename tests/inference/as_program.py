"""winograd.cpp as a program, called as the library is: of another processor by an emulator, or with sanitizers."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.winograd import _Step

# Memory comes as a file, pointers in it as places in that file: it begins with where they are, then come the steps.
_MAIN = """
#include <cstdio>
#include <cstdlib>
#include "winograd.cpp"

int main(int, char** arguments) {  // FILE COUNT THREADS; of nothing the group's size
    if (!arguments[1]) return group_size();
    const int count = std::atoi(arguments[2]), threads = std::atoi(arguments[3]);
    std::FILE* const file = std::fopen(arguments[1], "r+b");
    std::fseek(file, 0, SEEK_END);
    std::vector<char> memory(std::ftell(file));
    std::rewind(file);
    if (std::fread(memory.data(), 1, memory.size(), file) != memory.size()) return 2;
    const auto at = [&](int64_t place) { return &memory[place]; };
    const int64_t *const places = reinterpret_cast<int64_t*>(at(0)), *const steps = places + 1 + places[0];
    for (const int64_t* place = places + 1; place < steps; ++place)
        *reinterpret_cast<char**>(at(*place)) = at(*reinterpret_cast<int64_t*>(at(*place)));
    if (run(reinterpret_cast<const Step*>(steps), count, threads)) return 3;
    std::rewind(file);
    return std::fwrite(memory.data(), 1, memory.size(), file) != memory.size() || std::fclose(file);
}
"""
_POINTERS = [name for name, kind in _Step._fields_ if kind is ctypes.c_void_p]


class LibraryAsProgram:
    """What ``winograd.library`` returns, but that every call runs a program.

    Args:
        compiler: command, with its options.
        emulator: command that runs the compiler's programs; empty where this processor does.
        folder: for the program and its files.
    """

    def __init__(self, compiler: Sequence[str], emulator: Sequence[str], folder: Path) -> None:
        main, program = folder / "main.cpp", folder / "main"
        main.write_text(_MAIN)
        options = ["-std=c++17", "-I", winograd_library._SOURCE.parent, "-o", program]
        subprocess.run([*compiler, *options, main], check=True)
        self._command, self._file = [*emulator, program], folder / "memory"

    def group_size(self) -> int:
        """Return the channels that are computed at once."""
        return subprocess.run(self._command).returncode

    def run(self, steps: "ctypes.Array[_Step]", count: int, threads: int) -> int:
        """Compute steps; return 0, else what went wrong."""
        held: dict[int, int] = {}  # address → floats
        for step in steps:
            for name, floats in _floats(step).items():
                if address := getattr(step, name):
                    held[address] = max(held.get(address, 0), floats)
        pointers = [(k, name) for k, step in enumerate(steps) for name in _POINTERS if getattr(step, name)]
        start = 8 * (1 + len(pointers))
        places, end = {}, start + ctypes.sizeof(steps)
        for address, floats in held.items():
            places[address], end = end, end + -(-4 * floats // 64) * 64
        header = [len(pointers)]
        moved = type(steps).from_buffer_copy(steps)
        for k, name in pointers:
            header.append(start + k * ctypes.sizeof(_Step) + getattr(_Step, name).offset)
            setattr(moved[k], name, places[getattr(steps[k], name)])
        memory = bytearray(end)
        memory[: start + ctypes.sizeof(steps)] = bytes((ctypes.c_int64 * len(header))(*header)) + bytes(moved)
        for address, place in places.items():
            memory[place : place + 4 * held[address]] = ctypes.string_at(address, 4 * held[address])
        self._file.write_bytes(memory)
        failed = subprocess.run([*self._command, self._file, str(count), str(threads)], timeout=60).returncode
        memory = self._file.read_bytes()
        for address, place in places.items():
            ctypes.memmove(address, memory[place : place + 4 * held[address]], 4 * held[address])
        return failed


def _floats(step: _Step) -> dict[str, int]:
    """Count the values behind each pointer of a step, as winograd.cpp says."""
    pixels = step.height * step.width
    return {
        "input": pixels // step.enlarge**2 * step.given,
        "filters": 9 * step.outputs * (step.seen + step.fresh),
        "bias": step.outputs,
        "skip1": pixels * step.stored,
        "skip2": pixels * step.stored,
        "output": pixels * step.stored,
    }
