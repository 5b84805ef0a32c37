"""Files that hold the weights of a network: one reader for each format. No reader runs code from a file."""
