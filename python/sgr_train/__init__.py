"""sgr-train: thin driver for local training with Successive Gradient Reconciliation (SGR)."""
