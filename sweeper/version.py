"""The version of sweeper. Written here so that a node to which only the package is sent knows it too."""

__version__ = "0.1.0"
