"""Lucas et al. (2021), Analyzing Monotonic Linear Interpolation in Neural Network Loss Landscapes."""
