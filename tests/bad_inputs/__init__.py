"""Generated bad inputs over config, store, checkpoint and recordings: each must end in one clear line, and change nothing."""
