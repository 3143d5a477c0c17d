"""Martlet: several Linux application servers as one machine, between which running desktops move."""

__version__ = "0.1.0"
