"""``python -m deepen``."""

from deepen.cli import main

main()
