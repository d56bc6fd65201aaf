# SPDX-License-Identifier: MIT
"""A small convolutional network that classifies images, as a graph to differentiate.

Every stage is a 3x3 convolution with a bias and relu, the first ones with a 2x2 maximum; the head is one
convolution over what is left of the image, which is what a dense layer is. Letters: N images
of a batch, C channels, S pixels a side, V classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ane_native import mil, nn

__all__ = ["CnnConfig", "cnn", "init_params"]


@dataclass(frozen=True)
class CnnConfig:
    """Sizes of a network; checked when made.

    Attributes:
        size: S; divisible by 2 for each maximum. channels: C of the images.
        widths: channels of each stage. classes: V. batch: N, baked into the program.
        pools: how many stages, from the first on, end in a maximum; all of them when None.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    size: int
    channels: int
    widths: tuple[int, ...]
    classes: int
    batch: int
    pools: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.size, self.channels, self.classes, self.batch, *self.widths)
        if not self.widths or min(numbers) < 1:
            raise ValueError(f"cnn: expected positive sizes and at least one stage, got {self}")
        if not 0 <= self.halvings <= len(self.widths):
            raise ValueError(f"cnn: pools: expected 0 to {len(self.widths)}, got {self.pools}")
        if self.size % 2**self.halvings:
            expected = f"a multiple of {2**self.halvings}"
            raise ValueError(f"cnn: size: expected {expected}, got {self.size}")

    @property
    def halvings(self) -> int:
        """Stages that end in a maximum."""
        return len(self.widths) if self.pools is None else self.pools


def cnn(config: CnnConfig) -> mil.Graph:
    """Input ``x`` [N, C, S, S], output ``logits`` [N, V, 1, 1]."""
    g = mil.Graph()
    x = g.input("x", (config.batch, config.channels, config.size, config.size))
    for i, width in enumerate(config.widths):
        x = mil.relu(nn.conv2d(x, width, f"stage{i}"))
        x = nn.max_pool(x) if i < config.halvings else x
    left = x.shape[2]
    g.output("logits", nn.conv2d(x, config.classes, "head", kernel=left, padding="valid"))
    return g


def init_params(config: CnnConfig, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """Fresh parameters, fp32; see :func:`ane_native.nn.init_weights`."""
    return nn.init_weights(cnn(config), rng)
