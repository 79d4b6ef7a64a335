"""Parts that the configs share. Pure data: no jax here."""

from ml_collections import ConfigDict


def synthetic():
    """The embedded default data: synthetic recordings, made on the spot when `data.stores` is empty."""
    return ConfigDict(
        dict(
            participants=400,
            segments_per_participant=60,  # minutes generated per participant, before selection
            seed=1,
            ppg_channels=2,
            workers=2,  # processes that generate
        )
    )


def data():
    return ConfigDict(
        dict(
            stores=(),  # paths or URLs of prepared stores; empty: synthetic
            weights=(),  # share of each store in a batch; empty: by size
            unseen_stores=(),  # stores that serve only as further tests, all of their participants
            # whose a name is that several stores have: "same person", who must then be on the same side (training, validation,
            # test) everywhere, or "different people"
            same_names="same person",
            participant_cap=0,  # segments per participant at most in training; 0: no cap
            # of stores in an object store: requests at once; a segment takes two, each a round trip, so that at 20 ms a
            # concurrency of 128 is at most 3200 segments/s (`python -m accdistill_jax.benchmark input --object-store`)
            read_concurrency=128,
            # of stores in an object store: MB of memory for the shards' indices (32 kB per 1024 segments) and the segments
            # read last; in shuffled epochs the latter help only as far as the store fits (38 GB per million minutes with two
            # PPG channels); 0 keeps nothing, and every batch fetches the indices of its shards again
            cache_mb=256,
            synthetic=synthetic(),
        )
    )


def augmentations():
    """Probabilities: arXiv 2312.05409. Strengths (see inputs/augment.py for their meaning): our choice."""
    return ConfigDict(
        dict(
            cut_out=dict(probability=0.4, strength=0.1, knots=4),
            magnitude_warp=dict(probability=0.25, strength=0.1, knots=6),
            gaussian_noise=dict(probability=0.25, strength=0.05, knots=4),
            channel_permute=dict(probability=0.25, strength=1.0, knots=4),
            time_warp=dict(probability=0.15, strength=0.005, knots=6),
        )
    )


def encoder_paper(architecture):
    """Sizes of the paper (assumed where shared sources do not state them; see the README)."""
    return ConfigDict(
        dict(
            architecture=architecture,
            transformer=dict(
                patch=20,  # samples of a token
                width=256,
                depth=8,
                heads=4,  # our choice, the paper does not say: heads of 64 instead of 32 are 1.12 times as fast on an H200
                mlp=1024,
                tokenizer=(),  # levels (samples, width) inside a patch; (): linear
                positions="sinusoidal",  # or "relative", or "sinusoidal+relative"
                residual="compute",  # dtype of the tokens between blocks: "float32", or that of runtime.compute_dtype
                output=0,  # embedding size; 0: width
            ),
            efficientnet=dict(
                stem=(32, 7, 2),  # width, kernel, stride
                # width, depth, stride, kernel, expansion
                stages=(
                    (16, 1, 1, 3, 1),
                    (24, 2, 2, 3, 6),
                    (40, 2, 2, 5, 6),
                    (80, 3, 2, 3, 6),
                    (112, 3, 1, 5, 6),
                    (192, 3, 2, 5, 6),
                    (320, 1, 1, 3, 6),
                ),
                head=768,
                output=256,
            ),
        )
    )


def encoder_small(architecture):
    """Sizes for minutes on two cores: our choice."""
    return ConfigDict(
        dict(
            architecture=architecture,
            transformer=dict(
                patch=64,
                width=96,
                depth=3,
                heads=4,
                mlp=192,
                tokenizer=(),
                positions="sinusoidal+relative",
                residual="float32",
                output=0,
            ),
            efficientnet=dict(
                stem=(32, 15, 4),
                # width, depth, stride, kernel, expansion
                stages=((32, 1, 2, 7, 2), (48, 2, 1, 15, 2), (64, 2, 2, 15, 2)),
                head=128,
                output=128,
            ),
        )
    )


def autoencoder(*, drop_fraction, decoder_width, decoder_depth, decoder_heads):
    return ConfigDict(
        dict(
            drop_fraction=drop_fraction,
            patch=20,  # samples, for an EfficientNet; a Transformer drops its own patches
            decoder_width=decoder_width,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
        )
    )


def contrastive(*, hidden, output):
    """InfoNCE between two views with a momentum branch, and KoLeo: values of arXiv 2312.05409."""
    return ConfigDict(
        dict(
            positives="participant",  # the second view: another segment of the participant, or "segment": of the same one
            temperature=0.04,
            koleo_weight=0.1,
            momentum=0.99,  # decay per step of the average that the second view goes through; 0: the encoder itself
            head=dict(hidden=hidden, output=output),
        )
    )


def inputs(bands="full", limit=0.0):
    """Input settings of a modality; see accdistill_jax/inputs/prepare.py."""
    return ConfigDict(
        dict(
            bands=bands,
            scale="std",
            limit=limit,
            # a lesser sensor than the recorded one: sampling rate as a share of the store's, step in the store's unit (g), and
            # number of axes (0: all)
            rate_share=1.0,
            step=0.0,
            axes=0,
        )
    )


def train(*, duration, batch_size, learning_rate):
    """Durations are "N steps", "N examples" or "N epochs"."""
    return ConfigDict(
        dict(
            duration=duration,
            batch_size=batch_size,  # global
            micro_batches=1,  # pieces in which a device works through its part of the batch: less memory, same gradient
            learning_rate=learning_rate,  # peak
            warmup="50 steps",
            final_learning_rate_fraction=0.02,
            weight_decay=0.01,
            b1=0.9,
            b2=0.98,
            clip_norm=1.0,
            optimizer="adamw",  # or "muon"
            muon=dict(momentum=0.95, newton_schulz_steps=5),
            ema_decay=0.0,  # of the parameters that are kept; 0: none
            validate_every="200 steps",
            validation_batches=4,
            checkpoint_every="200 steps",
            checkpoints_kept=2,  # of the newest; the best by validation loss stays as well
            log_every="10 steps",
            keep="last",  # which parameters leave the stage: "last" or "best" by validation loss
        )
    )


def no_augmentations():
    """The same keys with every probability zero."""
    config = augmentations()
    for name in config:
        config[name].probability = 0.0
    return config
