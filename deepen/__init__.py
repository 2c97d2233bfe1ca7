"""deepen: how much energy a neural network costs on a phone or an edge board."""

__version__ = "0.1.0"
