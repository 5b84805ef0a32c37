"""`python -m lerpscape`."""

from lerpscape.cli import main

main()
