"""One network at given tensors: its operations, its batches and its loss."""
