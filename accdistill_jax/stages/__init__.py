"""The stages of a run, each a function of the run's context that leaves its result in the work directory."""
