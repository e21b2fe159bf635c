"""What settings have in common: values out of range are refused when they are made."""

from __future__ import annotations

import math


def check_at_least(least: float, **values: float | None) -> None:
    """Refuse a value below the least, or that is no finite number; ``None`` is a default.

    Raises:
        ValueError: names the value.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} must be at least {least:g}, got {value!r}")


def check_above(bound: float, **values: float | None) -> None:
    """Refuse a value that is not above the bound, or no finite number; ``None`` is a default.

    Raises:
        ValueError: names the value.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > bound):
            raise ValueError(f"{name} must be above {bound:g}, got {value!r}")


def check_share(**values: float | None) -> None:
    """Refuse a value that is not between 0 and 1, both included; ``None`` is a default.

    Raises:
        ValueError: names the value.
    """
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
