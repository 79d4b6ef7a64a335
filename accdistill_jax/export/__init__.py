"""Exports of a trained encoder to other runtimes: ONNX, StableHLO, npz and safetensors, each with a model card."""
