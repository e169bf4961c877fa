"""The learning rate of every run here: a linear rise, then the polynomial fall of the released code (PFENet)."""


def learning_rate(rate: float, step: int, steps: int, *, warmup: int, power: float) -> float:
    """The rate at `step`, from 0 on: `warmup` steps rise to `rate`, and it falls as (1 - step / steps) ^ power."""
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return float(rate * warm * (1 - step / steps) ** power)
