"""Read-outs: predictions of labels from embeddings, with intervals, and with a reason where no prediction is possible."""
