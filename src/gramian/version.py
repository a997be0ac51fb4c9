"""The package's version, in the one place that installers and run records read."""

__version__ = "0.1.0"
