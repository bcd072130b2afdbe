"""`python -m flows ...` is `sightflow ...`."""

from flows.cli import main

main()
