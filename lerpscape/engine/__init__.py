"""Losses and derivatives of a model at many α."""
