"""Files and folders that outlive a run: arrays, checkpoints, exports and their copies."""
