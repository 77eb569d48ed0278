"""Settings of a run that takes a second, and a look into its folder."""

from __future__ import annotations

from pathlib import Path

TINY = {"train_subset": 128, "depth": 3, "width": 12, "epochs": 3, "batch_size": 32}
TINY_FLAGS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
