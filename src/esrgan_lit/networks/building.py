"""Build networks from what files claim of them: checked against the tensors before anything large is made."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from esrgan_lit.tensor_files import WeightsError, shown

Network = TypeVar("Network")
_MODULES_PER_TENSOR = 4  # a convolution has two tensors, an activation none; RRDBNet has one module for two tensors


class _TooLargeError(Exception):
    pass


def build_within(make: Callable[[], Network], tensors: int, device: str = "meta") -> Network:
    """Build a network, by default without memory for its weights, and stop where it gets too large.

    Args:
        make: builds it.
        tensors: how many there are for it: one that has more parameters, or many times more layers, is given up before
            it takes the memory, since it cannot be the file's.
        device: where; "meta" has no memory.

    Raises:
        WeightsError: when it gets larger, or ``make`` refuses its arguments; the message does not name the file.
    """

    def count_to(most: int) -> Callable[..., None]:
        seen: set[tuple[int, str]] = set()  # in-place arithmetic registers a parameter again

        def count(module: nn.Module, name: str, part: Any) -> None:
            seen.add((id(module), name))
            if len(seen) > most:
                raise _TooLargeError

        return count

    hooks = (
        register_module_parameter_registration_hook(count_to(tensors)),
        register_module_module_registration_hook(count_to(_MODULES_PER_TENSOR * tensors + 100)),
    )
    try:
        with torch.device(device):  # on "meta", no time for an initialization that would be overwritten
            return make()
    except _TooLargeError:
        raise WeightsError(f"it would have more tensors than the {tensors:,} of the file") from None
    except (TypeError, ValueError, RuntimeError, OverflowError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(shown(reason, 300)) from error
    finally:
        for hook in hooks:
            hook.remove()


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network the tensors of a state dict that ``find_misfit`` has nothing against."""
    expected = network.state_dict()
    counters = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in expected.items() if key not in state}
    chosen = {key: state[key] for key in expected if key in state} | counters
    network.load_state_dict(chosen, assign=any(value.is_meta for value in expected.values()))
