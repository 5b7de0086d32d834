"""HAT-Net as loops over windows, pooled cells and heads.

This code computes the paper's equations for one image, without padding. It is
written to be easy to verify and not to be fast. It takes only the weights and
the settings from the model.
"""

import torch
from torch.nn import functional as F  # noqa: N812


def conv(layer, x):
    options = layer.stride, layer.padding, 1, layer.groups
    return F.conv2d(x[None], layer.weight, layer.bias, *options)[0]


def norm(layer, x):
    """Normalize over all channels and positions."""
    x = (x - x.mean()) / (x.var(unbiased=False) + layer.eps).sqrt()
    return x * layer.weight[:, None, None] + layer.bias[:, None, None]


def attend(q, k, v, heads):
    """Attend with each head: q (C, Lq), k and v (C, Lk) -> (C, Lq)."""
    out = []
    parts = [x.chunk(heads) for x in (q, k, v)]
    for q_, k_, v_ in zip(*parts, strict=True):
        weights = (q_.T @ k_ / len(q_) ** 0.5).softmax(dim=1)
        out.append((weights @ v_.T).T)
    return torch.cat(out)


def cuts(length, size, first=None):
    """Cut a side of a map into windows: the begin and end of each."""
    edges = list(range(first or size, length, size))
    return zip([0, *edges], [*edges, length], strict=True)


def window_attention(attn, x):
    qkv = conv(attn.qkv, norm(attn.norm, x))
    _, height, width = qkv.shape
    size = attn.grid_size or max(height, width)
    first_h = size // 2 if attn.shifted and size < height else None
    first_w = size // 2 if attn.shifted and size < width else None
    out = torch.zeros_like(x)
    for top, bottom in cuts(height, size, first_h):
        for left, right in cuts(width, size, first_w):
            window = qkv[:, top:bottom, left:right]
            q, k, v = window.flatten(1).chunk(3)
            out[:, top:bottom, left:right] = attend(
                q, k, v, attn.num_heads
            ).view(-1, bottom - top, right - left)
    return out


def pool(x, size):
    _, height, width = x.shape
    rows = [
        [
            x[:, top:bottom, left:right].mean(dim=(1, 2))
            for left, right in cuts(width, size)
        ]
        for top, bottom in cuts(height, size)
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def attention(attn, x):
    local = window_attention(attn, x)
    if not hasattr(attn, 'ds_ratio'):
        return conv(attn.proj, local)
    g = norm(attn.grid_norm, x + local)
    q = conv(attn.q, g).flatten(1)
    kv = conv(attn.kv, norm(attn.pool_norm, pool(g, attn.ds_ratio)))
    k, v = kv.flatten(1).chunk(2)
    out = attend(q, k, v, attn.num_heads).view_as(x)
    return conv(attn.proj, out + g)


def mlp(layer, x):
    x = F.silu(conv(layer.fc1, norm(layer.norm1, x)))
    if layer.dw_conv is not None:
        x = F.silu(conv(layer.dw_conv, x))
    return norm(layer.norm2, conv(layer.fc2, x))


def forward(model, image):
    """Compute the features of all stages for one image (3, H, W)."""
    conv1, norm1, _, conv2 = model.stem
    x = conv(conv2, F.silu(norm(norm1, conv(conv1, image))))
    outs = []
    for i, stage in enumerate(model.stages):
        if i:
            x = conv(model.downsamples[i - 1][0], x)
            x = norm(model.downsamples[i - 1][1], x)
        for block in stage:
            x = x + attention(block.attn, x)
            x = x + mlp(block.mlp, x)
        outs.append(x)
    return outs
