"""Defaults of the schema that differ from those of the registered options: small models, and probabilities of the paper."""

# Values of the presets for minutes on two cores, where they differ from the paper's sizes, which are the defaults of
# the registered options. Our choice.
SMALL_TRANSFORMER = {
    "patch": 64,
    "width": 96,
    "depth": 3,
    "mlp": 192,
    "positions": "sinusoidal+relative",
}
SMALL_EFFICIENTNET = {
    "stem": (32, 15, 4),
    "stages": ((32, 1, 2, 7, 2), (48, 2, 1, 15, 2), (64, 2, 2, 15, 2)),
    "head": 128,
    "output": 128,
}
SMALL_OBJECTIVES = {
    "autoencoder": {"drop_fraction": 0.5, "decoder_width": 64, "decoder_depth": 1},
    "contrastive": {"head": {"hidden": 256}},
}
# arXiv 2312.05409
PAPER_PROBABILITIES = {
    "cut_out": {"probability": 0.4},
    "magnitude_warp": {"probability": 0.25},
    "gaussian_noise": {"probability": 0.25},
    "channel_permute": {"probability": 0.25},
    "time_warp": {"probability": 0.15},
}
