"""`python -m lerpscape`."""

from lerpscape.cli.main import main

main()
