"""Models whose lines are understood: noisy quadratic, linear networks, and width."""
