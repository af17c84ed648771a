"""What losses that are networks share: the network is kept out of whatever is trained and saved."""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class FrozenNetwork(nn.Module):
    """A term with a network that never changes: it is in no state dict, and no optimizer or DDP reducer ever sees it.

    Args:
        network: put into evaluation mode and frozen.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._frozen = (network.eval().requires_grad_(False),)  # in a tuple it is no submodule

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._frozen[0]._apply(fn, recurse)  # what moves or converts this module moves the network too
        return super()._apply(fn, recurse)
