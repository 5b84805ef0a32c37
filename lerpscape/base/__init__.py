"""Errors, arrays, saving, progress and what every result can do. Nothing here imports torch."""
