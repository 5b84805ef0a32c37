"""Random networks, data, losses and calls against oracles that share no code with the package.

One integer names a case. `python -m fuzz --case N` (with `tests` on the path) runs it again; CONTRIBUTING.md says more.
"""
