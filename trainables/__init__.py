"""Training of one trial in plain PyTorch: no Ray, no Optuna, no MLflow; runs alone with ``python -m trainables``."""
