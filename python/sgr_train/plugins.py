"""Files of users whose methods, networks, heads, data sets and recipes join those that are there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import UsageError, one_line
from .paths import expand

ENTRY_POINTS = "sgr_train.plugins"  # of packages that bring some: each names a module


def load(files: Iterable[Path]) -> None:
    """Execute plug-in files, each once in a process.

    Raises:
        UsageError: one cannot be read or fails.
    """
    for file in files:
        path = expand(file).absolute()
        name = f"sgr_train_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"--plugin {file}: it must be a file that ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UsageError(f"--plugin {file} fails: {type(error).__name__}: {one_line(error)}") from error


def fingerprints(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of plug-in files by their paths.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        return {str(file): hashlib.sha256(expand(file).read_bytes()).hexdigest() for file in files}
    except OSError as error:
        raise UsageError(f"--plugin {error.filename} cannot be read: {error.strerror}") from error


def load_installed() -> None:
    """Import the modules that installed packages name as their plug-ins.

    Raises:
        UsageError: one fails.
    """
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            reason = f"{one_line(error)}; mend or uninstall it"
            raise UsageError(f"plug-in {point.name} ({point.value}) fails: {reason}") from error
