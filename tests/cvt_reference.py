"""CvT under the authors' keys, written again from its description, slow and plain, for tests."""

from collections import OrderedDict

import torch
from torch import nn


class ConvEmbed(nn.Module):
    def __init__(self, in_chans, width, kernel, stride, padding):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x):
        x = self.proj(x)
        shape = x.shape
        x = self.norm(x.flatten(2).transpose(1, 2))
        return x, shape[2:]


def conv_projection(width, stride):
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            bn=nn.BatchNorm2d(width),
        )
    )


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.conv_proj_q = conv_projection(width, 1)
        self.conv_proj_k = conv_projection(width, 2)
        self.conv_proj_v = conv_projection(width, 2)
        self.proj_q = nn.Linear(width, width)
        self.proj_k = nn.Linear(width, width)
        self.proj_v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, grid, with_token):
        token, image = (x[:, :1], x[:, 1:]) if with_token else (x[:, :0], x)
        image = image.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)
        parts = []
        for name in "qkv":
            convolved = getattr(self, f"conv_proj_{name}")(image).flatten(2).transpose(1, 2)
            rows = torch.cat([token, convolved], dim=1)
            parts.append(getattr(self, f"proj_{name}")(rows))
        outs = []
        for q, k, v in zip(*(part.chunk(self.heads, dim=2) for part in parts), strict=True):
            weights = (q @ k.transpose(1, 2) * x.shape[2] ** -0.5).softmax(dim=2)
            outs.append(weights @ v)
        return self.proj(torch.cat(outs, dim=2))


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, 4 * width), act=QuickGELU(), fc2=nn.Linear(4 * width, width)
            )
        )

    def forward(self, x, grid, with_token):
        x = x + self.attn(self.norm1(x), grid, with_token)
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    def __init__(self, in_chans, width, depth, heads, patch, with_token):
        super().__init__()
        self.patch_embed = ConvEmbed(in_chans, width, *patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if with_token else None
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x):
        x, grid = self.patch_embed(x)
        with_token = self.cls_token is not None
        if with_token:
            x = torch.cat([self.cls_token.expand(x.shape[0], 1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, grid, with_token)
        token, image = (x[:, :1], x[:, 1:]) if with_token else (None, x)
        return image.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid), token


class CvT(nn.Module):
    def __init__(self, widths, depths, heads, num_classes):
        super().__init__()
        patches = [(7, 4, 2), (3, 2, 1), (3, 2, 1)]
        for index in range(3):
            stage = Stage(
                3 if index == 0 else widths[index - 1],
                widths[index],
                depths[index],
                heads[index],
                patches[index],
                index == 2,
            )
            self.add_module(f"stage{index}", stage)
        self.norm = nn.LayerNorm(widths[2], eps=1e-5)
        self.head = nn.Linear(widths[2], num_classes)

    def forward(self, x):
        for stage in (self.stage0, self.stage1, self.stage2):
            x, token = stage(x)
        return self.head(self.norm(token)[:, 0])
