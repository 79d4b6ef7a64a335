"""Runs an exported Transformer student with numpy alone: python encoder.py encoder.npz signal.npy [embeddings.npy]."""

import json
import sys

import numpy as np


def read_weights(path):
    """Weights and description of encoder.npz."""
    weights = dict(np.load(path))
    return weights, json.loads(str(weights.pop("about")))


def prepared(x, settings):
    """[batch, time, channels] in the unit of the contract -> the normalised bands that the encoder reads."""

    def mean(x, width):  # centred mean over time, edges repeated
        padded = np.pad(x, ((0, 0), (width // 2, width - 1 - width // 2), (0, 0)), mode="edge")
        total = np.cumsum(np.pad(padded, ((0, 0), (1, 0), (0, 0))), axis=1)
        return (total[:, width:] - total[:, :-width]) / width

    x = x.astype(np.float64)  # numpy adds float32 values along an axis with too large an error
    if settings["bands"] == "full+breathing":
        pulse = x - x[:, :1]
        power = mean(mean((pulse - mean(mean(pulse, 64), 64)) ** 2, 64), 64)
        x = np.concatenate([x, np.sqrt(power + 1e-6 * power.mean(1, keepdims=True) + 1e-12)], -1)
    elif settings["bands"] != "full":
        x = x - x[:, :1]
        low = mean(mean(x, 16), 16)
        fast = x - low
        x = fast if settings["bands"] == "high" else np.concatenate([low, fast], -1)
        if settings["bands"].endswith("beat"):
            y = low + fast
            fast = mean(mean(y, 4), 2) - mean(mean(y, 8), 8)
            fast = fast / np.sqrt(1 + (fast / (5.0132 * np.abs(fast).mean(1, keepdims=True) + 4e-6)) ** 2)
        if settings["bands"].endswith(("envelope", "beat")):
            x = np.concatenate([x, np.sqrt(mean(mean(fast**2, 8), 8) + 1e-9)], -1)
    x = x - x[:, :1]
    x = x - x.mean(1, keepdims=True)
    robust = settings["scale"] == "robust"
    spread = 1.2533 * np.abs(x).mean(1, keepdims=True) if robust else np.sqrt((x**2).mean(1, keepdims=True))
    x = x / (spread + 1e-6)
    return x / np.sqrt(1 + (x / settings["limit"]) ** 2) if settings["limit"] else x


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def embed_signal(weights, about, x):
    """[batch, time, channels] float -> [batch, D] float32."""
    w, model = weights, about["model"]

    def dense(x, name):
        return x @ w[f"{name}.kernel"] + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.scale"] + w[f"{name}.bias"]

    x = prepared(x, about["inputs"])
    batch, time, channels = x.shape
    patch, heads, width = model["patch"], model["heads"], model["width"]
    h = x
    for level, (_, kernel, stride) in enumerate(model["stem"]):
        first = (kernel - stride) // 2
        h = np.pad(h, ((0, 0), (first, kernel - stride - first), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(h, kernel, axis=1)[
            :, ::stride
        ]  # [batch, time, channel, tap]
        h = np.tensordot(windows, w[f"convolutions.conv_{level}.kernel"], ((3, 2), (0, 1)))
        h = gelu_tanh(norm(h + w[f"convolutions.conv_{level}.bias"], f"convolutions.norm_{level}"))
    for level, (span, _) in enumerate(model["tokenizer"]):
        h = h.reshape(batch, time // span, -1)
        h = gelu_tanh(dense(h, f"tokenizer_{level}"))
    h = dense(h.reshape(batch, time // patch, -1), "token")
    h = h + w["codes"] if "sinusoidal" in model["positions"] else h
    for block in range(model["depth"]):
        name = f"block_{block}"
        qkv = dense(norm(h, f"{name}.norm_attention"), f"{name}.attention.qkv")
        q, k, v = qkv.reshape(batch, -1, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        if "relative" in model["positions"]:
            first, second = np.split(q, 2, -1), np.split(k, 2, -1)
            cos, sin = w["cos"], w["sin"]
            q, k = (np.concatenate([a * cos - b * sin, a * sin + b * cos], -1) for a, b in (first, second))
        logits = (q * (width // heads) ** -0.5) @ k.swapaxes(-1, -2)
        logits = logits + w["bias"] if "relative" in model["positions"] else logits
        attention = np.exp(logits - logits.max(-1, keepdims=True))
        out = (attention / attention.sum(-1, keepdims=True)) @ v
        h = h + dense(out.transpose(0, 2, 1, 3).reshape(batch, -1, width), f"{name}.attention.out")
        hidden = gelu_tanh(dense(norm(h, f"{name}.norm_mlp"), f"{name}.mlp_in"))
        h = h + dense(hidden, f"{name}.mlp_out")
    tokens = norm(h, "norm")
    mean = tokens.mean(1)
    if about["representation"] != "mean":
        count, absent = tokens.shape[1], np.zeros_like(mean)
        parts = [mean, tokens.std(1), np.abs(np.diff(tokens, axis=1)).mean(1) if count > 1 else absent]
        if about["representation"] == "autocovariance":
            deviation = tokens - mean[:, None]
            for lag in (k * max(1, round(count / 60)) for k in range(4)):  # 0 to 3 s
                parts.append((deviation[:, : count - lag] * deviation[:, lag:]).mean(1) if lag < count else absent)
        return np.concatenate(parts, 1).astype(np.float32)
    return (dense(mean, "projection") if model["output"] else mean).astype(np.float32)


if __name__ == "__main__":
    result = embed_signal(*read_weights(sys.argv[1]), np.load(sys.argv[2]))
    print(f"embeddings {list(result.shape)}")
    if len(sys.argv) > 3:
        np.save(sys.argv[3], result)
