"""Token embeddings: how a run of tokens reads the map before it."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.errors import ModelError
from ablate.models.convolution import Conv2d
from ablate.models.layers import BatchNorm2d, LayerNorm2d, activation

EMBED_EPS = 1e-5
"""LayerNorm after the embedding: 1e-5 in CoaT and CvT, also where the blocks have 1e-6."""


def padding(kernel_size: int, stride: int) -> int:
    """Zeros around a map for an embedding: 2 for 7x7 at stride 4, 1 for 3x3, none for patches.

    A kernel smaller than its stride is padded as at stride 1, so that the grid is that of the
    residual embedding: the size divided by the stride, rounded up.
    """
    return kernel_size // 2 if kernel_size < stride else (kernel_size - stride + 1) // 2


class TokenEmbedding(nn.Module):
    """norm(proj(x)): a convolution that may down-sample, then LayerNorm over the channels.

    Args:
        in_width: channels of the incoming map.
        width: channels of the tokens.
        embed: "patch" or "conv" (one convolution with bias; patches do not overlap because
            their kernel is the stride) or "residual" (a residual block).
        kernel_size: side of the convolution.
        stride: down-sampling.
        act: activation inside the residual block.
        bn_eps: epsilon of the BatchNorms inside the residual block.

    Raises:
        ModelError: a residual block with an even kernel, whose two paths would differ in size.

    Source: patches arXiv 2104.06399 section 3.2; convolution arXiv 2103.15808 section 3.2
        (7x7 with stride 4 is padded by 2, 3x3 with stride 2 by 1).
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        embed: str,
        kernel_size: int,
        stride: int,
        act: str,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding(kernel_size, stride)
        self.proj: nn.Module
        if embed == "residual":
            self.padding = kernel_size // 2
            self.proj = ResidualEmbedding(in_width, width, kernel_size, stride, act, bn_eps)
        else:
            self.proj = Conv2d(in_width, width, kernel_size, stride, self.padding)
        self.norm = LayerNorm2d(width, eps=EMBED_EPS)

    def grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the tokens that a map of (H, W) becomes; 0 where it is too small."""
        height, width = (
            (side + 2 * self.padding - self.kernel_size) // self.stride + 1 for side in grid
        )
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H', W'), channels-last."""
        out: Tensor = self.norm(self.proj(x))
        return out


class ResidualEmbedding(nn.Module):
    """norm(conv_stride(act(norm(conv(x))))) + norm(conv1x1_stride(x)): ATC's ResBlock embedding.

    The first convolution keeps the incoming width; none has a bias.

    Source: ATC, Table 2 and 5 (the counts of ATC(Res) fit this reading to the last digit).
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel_size: int,
        stride: int,
        act: str,
        bn_eps: float,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ModelError(
                f"embed=residual needs an odd patch_size, so that its two paths meet, but got "
                f"patch_size={kernel_size}"
            )
        padding = kernel_size // 2
        self.conv1 = Conv2d(in_width, in_width, kernel_size, 1, padding, bias=False)
        self.norm1 = BatchNorm2d(in_width, eps=bn_eps)
        self.act = activation(act)
        self.conv2 = Conv2d(in_width, width, kernel_size, stride, padding, bias=False)
        self.norm2 = BatchNorm2d(width, eps=bn_eps)
        self.shortcut = Conv2d(in_width, width, 1, stride, bias=False)
        self.shortcut_norm = BatchNorm2d(width, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))."""
        branch: Tensor = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        shortcut: Tensor = self.shortcut_norm(self.shortcut(x))
        return shortcut + branch
