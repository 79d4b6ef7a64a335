"""ResNet1D in PyTorch with random weights: the reference of the encoders in Flax."""

import torch
from torch import nn
from torch.nn import functional


def padded(x, kernel: int, stride: int):
    """Zeros on both sides, so that the result has ceil(time / stride) samples."""
    total = max(0, ((x.shape[-1] + stride - 1) // stride - 1) * stride + kernel - x.shape[-1])
    return functional.pad(x, (total // 2, total - total // 2))


class Same(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride)

    def forward(self, x):
        return self.conv(padded(x, self.kernel, self.stride))


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, first):
        super().__init__()
        self.first, self.stride, self.missing = first, stride, outputs - inputs
        self.bn1, self.bn2 = nn.BatchNorm1d(inputs), nn.BatchNorm1d(outputs)
        self.conv1, self.conv2 = Same(inputs, outputs, kernel, stride), Same(outputs, outputs, kernel)

    def forward(self, x):
        y = x if self.first else functional.relu(self.bn1(x))
        y = self.conv2(functional.relu(self.bn2(self.conv1(y))))
        if self.stride > 1:
            x = functional.max_pool1d(functional.pad(x, (0, self.stride - 1)), self.stride)
        side = self.missing // 2
        return y + functional.pad(x, (0, 0, side, self.missing - side))


class Reference(nn.Module):
    """PaPaGei-S with `output`, Pulse-PPG without; the names are those of the published files."""

    def __init__(self, filters: int, kernel: int, blocks: int, output: int):
        super().__init__()
        self.first_block_conv, self.first_block_bn = Same(1, filters, kernel), nn.BatchNorm1d(filters)
        widths = [filters * 2 ** (number // 4) for number in range(blocks)]
        self.basicblock_list = nn.ModuleList(
            Block(before, width, kernel, 2 if number % 2 else 1, number == 0)
            for number, (before, width) in enumerate(zip([filters, *widths], widths, strict=False))
        )
        self.output = output
        if output:
            self.final_bn, self.dense = nn.BatchNorm1d(widths[-1]), nn.Linear(widths[-1], output)

    def forward(self, x):
        if not self.output:
            x = functional.instance_norm(x)
        x = functional.relu(self.first_block_bn(self.first_block_conv(x)))
        for block in self.basicblock_list:
            x = block(x)
        if not self.output:
            return x.max(dim=-1)[0]
        return self.dense(functional.relu(self.final_bn(x)).mean(dim=-1))


def random_reference(filters: int, kernel: int, blocks: int, output: int, *, seed: int = 0) -> Reference:
    """A network in evaluation mode with random weights and statistics."""
    torch.manual_seed(seed)
    model = Reference(filters, kernel, blocks, output).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    return model
