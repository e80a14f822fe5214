"""Tests for a machine with a GPU, without network: ``make gpu`` (``python -m tests.gpu``)."""
