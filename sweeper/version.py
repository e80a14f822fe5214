"""The version of sweeper. Written here so that a node to which the package is only shipped knows it too."""

__version__ = "0.1.0"
