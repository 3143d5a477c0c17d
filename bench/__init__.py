"""Measurements and the demonstration, run from the checkout as `python -m bench.NAME`; no part of the package."""
