"""Settings of a run that takes a second."""

TINY = {"train_subset": 128, "depth": 3, "width": 12, "epochs": 3, "batch_size": 32}
TINY_FLAGS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
