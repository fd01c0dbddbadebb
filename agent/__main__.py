"""Entry point of `python -m agent`."""

from agent.cli import main

main()
