"""The laboratory: trains the networks whose lines the instrument measures."""
