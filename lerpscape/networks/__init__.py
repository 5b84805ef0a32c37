"""A network with given tensors: its traced operations, calling it on batches of data, and its loss."""
