"""Generated bad inputs for configs, stores, checkpoints and recordings: each must end in one clear line and change nothing."""
