"""Cluster sweeps over preference objectives for CLIP: search, warm slots, durability, the Pareto front."""

__version__ = "0.1.0"
