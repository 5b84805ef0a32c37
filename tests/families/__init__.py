"""Families of models, by table: each is measured in every way and compared with a plain loop."""

from families import images, networks_in_science, sequences, wrapped

FAMILIES = [*images.FAMILIES, *sequences.FAMILIES, *networks_in_science.FAMILIES, *wrapped.FAMILIES]
