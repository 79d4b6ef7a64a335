"""Contender: the same distillation step in idiomatic PyTorch, eager or compiled.

Architecture, weights, batch and optimiser are the same. It uses scaled_dot_product_attention, a fused AdamW with a group with
and a group without decay, gradient clipping with foreach, and autocast for bfloat16. Dequantisation and normalisation are part
of the step, as in JAX. Augmentation is not, because its random numbers could not be the same.
"""

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from accdistill_jax.benchmark.contest import Skipped, serve
from accdistill_jax.runtime import host_memory
from accdistill_jax.training.optimizer import UNDECAYED_WORDS

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import nn
else:
    try:
        import torch
        import torch.nn.functional as F
        from torch import nn
    except ImportError:  # an optional extra
        torch = None

EPSILON_NORM, EPSILON_SCALE = 1e-6, 1e-6


def linear(weights: dict[str, Any]) -> "nn.Linear":
    """A dense layer with the weights "kernel" [C, D] and "bias" [D]."""
    kernel = torch.as_tensor(weights["kernel"])
    layer = nn.Linear(kernel.shape[0], kernel.shape[1])
    layer.weight.data, layer.bias.data = kernel.T.contiguous(), torch.as_tensor(weights["bias"])
    return layer


def layer_norm(weights: dict[str, Any]) -> "nn.LayerNorm":
    """A layer norm with the weights "scale" [D] and "bias" [D]."""
    layer = nn.LayerNorm(len(weights["scale"]), eps=EPSILON_NORM)
    layer.weight.data, layer.bias.data = (torch.as_tensor(weights[name]) for name in ("scale", "bias"))
    return layer


def build_peer_encoder(weights: dict[str, Any], settings: dict[str, Any]) -> "nn.Module":
    """The Transformer encoder of `models/transformer.py` with sinusoidal positions and linear tokens.

    Args:
        weights: parameters of the JAX encoder, nested.
        settings: the encoder's `transformer` section, and "codes", the positions [P, D].
    """

    class TorchBlock(nn.Module):
        def __init__(self, block: dict[str, Any]):
            super().__init__()
            self.norm_attention, self.norm_mlp = layer_norm(block["norm_attention"]), layer_norm(block["norm_mlp"])
            self.qkv, self.out = linear(block["attention"]["qkv"]), linear(block["attention"]["out"])
            self.mlp_in, self.mlp_out = linear(block["mlp_in"]), linear(block["mlp_out"])

        def forward(self, x):
            B, P, D = x.shape
            qkv = self.qkv(self.norm_attention(x)).view(B, P, 3, settings["heads"], D // settings["heads"])
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, P, D))
            return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(x)), approximate="tanh"))

    class TorchEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.norm = linear(weights["token"]), layer_norm(weights["norm"])
            self.blocks = nn.ModuleList(TorchBlock(weights[f"block_{i}"]) for i in range(settings["depth"]))
            self.projection = linear(weights["projection"]) if "projection" in weights else None
            self.register_buffer("codes", torch.as_tensor(settings["codes"]))

        def forward(self, x):
            B, T, C = x.shape
            h = self.token(x.view(B, T // settings["patch"], -1)) + self.codes
            if torch.is_autocast_enabled(x.device.type) and settings.get("residual") == "compute":
                h = h.to(torch.bfloat16)
            for block in self.blocks:
                h = block(h)
            pooled = self.norm(h).mean(dim=1)
            return pooled if self.projection is None else self.projection(pooled)

    return TorchEncoder()


def build_peer_head(weights: dict[str, Any]) -> "nn.Module":
    """The projection head of `models/heads.py`."""

    class TorchHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.output = linear(weights["hidden"]), linear(weights["output"])

        def forward(self, z):
            with torch.autocast(z.device.type, enabled=False):
                h = self.output(F.gelu(self.hidden(z.float()), approximate="tanh"))
                return F.normalize(h, dim=-1)

    return TorchHead()


def trained(modules: "dict[str, nn.Module]") -> dict[str, Any]:
    """Trained parameters with the names and the layout of the JAX models, as numpy arrays."""
    parameters = {}
    for root, module in modules.items():
        for path, layer in module.named_modules():
            path = re.sub(r"\.(qkv|out)$", r".attention.\1", re.sub(r"^blocks\.", "block_", path))
            path = f"{root}/{path.replace('.', '/')}"
            if isinstance(layer, nn.Linear):
                parameters |= {f"{path}/kernel": layer.weight.T, f"{path}/bias": layer.bias}
            elif isinstance(layer, nn.LayerNorm):
                parameters |= {f"{path}/scale": layer.weight, f"{path}/bias": layer.bias}
    return {name: value.detach().float().cpu().numpy() for name, value in parameters.items()}


def parameter_difference(start: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Mean distance of two sets of trained parameters, relative to their mean movement from the start.

    The biases of queries, keys and values are left out: the gradient of a key's bias is rounding noise, which Adam scales up to
    full steps.

    Args:
        start: parameters before training, by name.
        ours: our trained parameters.
        theirs: the peer's trained parameters.

    Raises:
        ValueError: the two sets have different names.
    """
    apart = moved = 0.0
    if ours.keys() != theirs.keys():
        raise ValueError(f"the sets have different parameters: {sorted(ours.keys() ^ theirs.keys())}")
    for name in ours.keys():
        if not name.endswith("qkv/bias"):
            apart += float(abs(theirs[name] - ours[name]).sum())
            moved += float(abs(ours[name] - start[name]).sum())
    return apart / moved if moved else apart


def normalised(batch: dict[str, Any], modality: str) -> "torch.Tensor":
    """Dequantises and normalises a signal: `inputs.prepare` with full bands, scale "std" and no limit."""
    x = batch[modality].float() * batch[f"{modality}_scale"][:, None] + batch[f"{modality}_offset"][:, None]
    x = x - x.mean(dim=1, keepdim=True)
    return x / (x.square().mean(dim=1, keepdim=True).sqrt() + EPSILON_SCALE)


def decayed(name: str, parameter: "nn.Parameter") -> bool:
    """True if weight decay applies to a parameter, by its shape and name, as in `training.optimizer`."""
    return parameter.ndim >= 2 and not any(word in name for word in UNDECAYED_WORDS)


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the training and follows the first steps of ours.

    Args:
        order: "config"; "share", folder with the weights and the batch that `training.py` wrote; "compile", a mode of torch.compile
            or None; "accelerator", True to run on a GPU; "keep_freed", True if the C library keeps freed memory; "follow_steps".
    """
    device = choose_device(order)
    if device.type == "cpu" and order["keep_freed"]:
        host_memory.keep_freed()  # as our contender does
    from accdistill_jax.benchmark.contenders.training import FOLLOWED
    from accdistill_jax.storage.arrays import flatten_arrays

    start = load_start(order["share"])
    # Layers share the arrays of `start` and train them in place.
    before = {name: value.copy() for name, value in flatten_arrays(start["params"]).items()}
    peer = Peer(start, order["config"], device=device, mode=order["compile"])
    batch = on_host(start["batch"], device)
    followed = [peer.run(batch, 1) for _ in range(order["follow_steps"])]
    with np.load(f"{order['share']}/{FOLLOWED}") as file:
        ours = dict(file)
    facts = {
        "versions": {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "first_steps": followed,
        "parameter_difference": parameter_difference(before, ours, peer.parameters()) if followed else 0.0,
        "device_peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }
    return facts, lambda steps: peer.run(batch, steps)


def choose_device(order: dict[str, Any]) -> "torch.device":
    """The device that an order asks for.

    Raises:
        Skipped: no PyTorch, no such device, more than a single device, or an unsupported config.
    """
    if torch is None:
        raise Skipped("PyTorch is not installed: pip install 'accdistill_jax[bench]'")
    check_supported(order["config"])
    if not order["accelerator"]:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Skipped("this PyTorch does not see the accelerator")
    if torch.cuda.device_count() > 1:
        raise Skipped(
            f"it supports a single device and there are {torch.cuda.device_count()}: set CUDA_VISIBLE_DEVICES=0"
        )
    torch.set_float32_matmul_precision("high")  # TF32, as JAX multiplies float32 on such a device
    return torch.device("cuda")


def load_start(share: str) -> dict[str, Any]:
    """The weights and the batch that our contender wrote: "params", "frozen" and "batch", nested numpy arrays."""
    from accdistill_jax.storage.arrays import nest_arrays

    with np.load(f"{share}/start.npz") as file:
        return nest_arrays({name: file[name] for name in file.files})


def on_host(batch: dict[str, Any], device: "torch.device", *, times: int = 1) -> "dict[str, torch.Tensor]":
    """A batch on the host as a data loader returns it (pinned for a GPU), with its segments repeated `times` times."""
    held = {
        name: torch.as_tensor(np.concatenate([value] * times)) for name, value in batch.items() if name != "position"
    }
    return {name: value.pin_memory() for name, value in held.items()} if device.type == "cuda" else held


class Peer:
    """The training of a student with a frozen teacher, in PyTorch.

    Args:
        start: weights and batch of `load_start`.
        config: config as plain values.
        device: device that it runs on.
        mode: mode of torch.compile, for fixed shapes; None: eager.
    """

    def __init__(self, start: dict[str, Any], config: dict[str, Any], *, device: "torch.device", mode: str | None):
        from accdistill_jax.models.ops import sinusoidal_positions

        self._device, self._settings, self._step = device, config["student"]["train"], 0
        samples = start["batch"]["ppg"].shape[1]

        def encoder(weights: dict[str, Any], section: dict[str, Any]) -> "nn.Module":
            sizes = section["transformer"]
            codes = sinusoidal_positions(samples // sizes["patch"], sizes["width"])
            return build_peer_encoder(weights, {**sizes, "codes": codes}).to(device)

        student = encoder(start["params"]["encoder"], config["student"]["encoder"])
        teacher = encoder(start["frozen"]["params"], config["teacher"]["encoder"]).requires_grad_(False)
        head, teacher_head = (build_peer_head(start["params"][name]).to(device) for name in ("head", "teacher_head"))
        mean, std = (torch.as_tensor(start["frozen"][name], device=device) for name in ("mean", "std"))
        self._modules = {"encoder": student, "head": head, "teacher_head": teacher_head}
        named = [(f"{i}.{n}", p) for i, m in enumerate(self._modules.values()) for n, p in m.named_parameters()]
        self._trained = [p for _, p in named]
        half = config["runtime"]["compute_dtype"] == "bfloat16"
        if (
            half
        ):  # autocast caches the cast weights of trained layers only and would cast a frozen layer's in every step
            for layer in teacher.modules():
                if isinstance(layer, nn.Linear):
                    layer.to(torch.bfloat16)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for n, p in named if decayed(n, p)], "weight_decay": self._settings["weight_decay"]},
                {"params": [p for n, p in named if not decayed(n, p)], "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=(self._settings["b1"], self._settings["b2"]),
            eps=1e-8,
            fused=True,
        )
        weight, temperature = config["student"]["teacher_to_student_weight"], config["student"]["temperature"]

        def loss_of(batch: dict[str, Any]) -> "torch.Tensor":
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                with torch.no_grad():
                    target = (teacher(normalised(batch, "ppg")) - mean) / std
                s, t = head(student(normalised(batch, "accel"))), teacher_head(target)
            logits = t @ s.T / temperature
            labels = torch.arange(len(s), device=device)
            return weight * F.cross_entropy(logits, labels) + (1.0 - weight) * F.cross_entropy(logits.T, labels)

        self._loss_of = torch.compile(loss_of, mode=mode, dynamic=False) if mode else loss_of

    def run(self, held: "dict[str, torch.Tensor]", steps: int) -> dict[str, float]:
        """Trains on a batch of the host; metrics are fetched a step later.

        Args:
            held: batch of `on_host`.
            steps: number of steps, at least 1.

        Returns:
            Metrics of the last step.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        warmup, peak = float(self._settings["warmup"].split()[0]), self._settings["learning_rate"]
        pending: Fetched | None = None
        for _ in range(steps):
            batch = {name: value.to(self._device, non_blocking=True) for name, value in held.items()}
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss_of(batch)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._trained, self._settings["clip_norm"], foreach=True)
            for group in self._optimizer.param_groups:
                group["lr"] = peak * min(1.0, self._step / warmup)
            self._optimizer.step()
            self._step += 1
            ahead = Fetched(loss, norm)
            if pending is not None:
                pending.values()
            pending = ahead
        assert pending is not None, "at least one step"
        values = pending.values()
        if not math.isfinite(values[0]):
            raise FloatingPointError("the loss is not finite, so the measured steps do not train")
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return {"loss": values[0], "gradient_norm": values[1]}

    def parameters(self) -> dict[str, Any]:
        """Trained parameters with our names, see `trained`."""
        return trained(self._modules)


class Fetched:
    """Metrics on their way to the host. Reading them a step later waits for their step only, not for later steps.

    The copy is launched directly after the step: a compiled program may reuse their memory in the next step.
    """

    def __init__(self, *scalars: "torch.Tensor"):
        device = torch.stack([scalar.detach().float() for scalar in scalars])
        self._event = None
        if device.is_cuda:
            self._host = torch.empty(device.shape, pin_memory=True)
            self._host.copy_(device, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = device

    def values(self) -> list[float]:
        """The metrics, as soon as their step is done."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()


def check_supported(config: dict[str, Any]) -> None:
    """Raises Skipped for a config that the PyTorch peer does not support."""
    for who in ("student", "teacher"):
        encoder = config[who]["encoder"]
        sizes = encoder[encoder["architecture"]]
        if sizes.get("positions") != "sinusoidal" or sizes["tokenizer"] or sizes["stem"]:
            raise Skipped(
                f"the PyTorch peer supports only a {who} that is a Transformer on linear patches with sinusoidal positions"
            )
    if config["student"]["contrast"]["loss"] != "infonce" or config["student"]["contrast"]["temperature_bounds"]:
        raise Skipped("the PyTorch peer has InfoNCE with a fixed temperature alone")
    if config["student"]["drop_fraction"]:
        raise Skipped("the PyTorch peer drops no tokens")
    if config["teacher"]["cached_views"]:
        raise Skipped("the PyTorch peer runs the teacher in every step")
    for modality, section in config["inputs"].items():
        if section["bands"] != "full" or section["scale"] != "std" or section["limit"]:
            raise Skipped(f"the PyTorch peer presents {modality} by its full band and standard deviation only")


if __name__ == "__main__":
    serve(prepare_contender)
