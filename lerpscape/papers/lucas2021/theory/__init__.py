"""Models with a known loss on the line: noisy quadratic, linear networks, and networks of growing width."""
