"""`python -m robust`."""

from .cli import main

main(prog_name="robust")
