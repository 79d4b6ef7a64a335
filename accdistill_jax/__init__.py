"""Cross-modal distillation of PPG representations into accelerometer encoders."""

__version__ = "0.1.0"
