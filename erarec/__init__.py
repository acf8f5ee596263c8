"""erarec: hear a recording, name its year."""

__version__ = "0.1.0"
