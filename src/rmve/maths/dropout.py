"""Dropout with cheap random bits on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Levels of the 16 random bits that decide about an element.
_LEVELS = 2**16


def dropout_mask(shape: torch.Size, p: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Independent factors ``0`` with probability ``p``, else ``1 / (1 - p)``.

    16 random bits decide about an element, a quarter of the draw that torch's dropout makes with several times the
    work; ``p`` is rounded to 1/65536, and the factor is that of the rounded ``p``, so that the mean is one.

    Parameters
    ----------
    shape, device, dtype
        Of the result.
    p
        In ``[0, 1)``.
    """
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: shape.numel()].view(shape).to(dtype)
    return bits.ge_(float(dropped - _LEVELS // 2)).mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Dropout):
    """torch's dropout; on the CPU its random numbers cost a fifth."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training, do nothing in evaluation."""
        if not self.training or self.p == 0.0 or self.p >= 1.0 or input.device.type != "cpu":
            return F.dropout(input, self.p, self.training)
        return input * dropout_mask(input.shape, self.p, input.device, input.dtype)


def use_cheap_dropout(network: nn.Module) -> None:
    """Put :class:`Dropout` in the place of every ``nn.Dropout`` of a network."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
