"""Base and novel classes of a fold.

Two ways to split are in use, and results are comparable only within one of them:

* `contiguous`: PASCAL-5i (Shaban et al.), fold i tests classes 5i to 5i + 4 from zero; also used on COCO.
* `interleaved`: COCO-20i as in PFENet and the work that follows it, fold i tests classes c with c mod 4 == i.
"""

from ntre_deploy.errors import InputError, one_of

SPLITS = ("contiguous", "interleaved")


def novel_classes(n_classes: int, fold: int, split: str = "contiguous", folds: int = 4) -> tuple[int, ...]:
    """Class indices (from zero, ascending) that `fold` holds back from training and tests.

    The folds partition the classes; where `n_classes` is no multiple of `folds`, sizes differ by one at most.

    Raises:
        InputError: unknown split, no such fold, fewer than two folds or fewer classes than folds.
    """
    one_of(split, SPLITS, "Split")
    if folds < 2:
        raise InputError(f"{folds} folds were asked for; base and novel classes need at least 2.")
    if n_classes < folds:
        raise InputError(f"{n_classes} classes cannot be split into {folds} folds; ask for fewer folds.")
    if not 0 <= fold < folds:
        raise InputError(f"Fold {fold} does not exist; it must be 0 to {folds - 1}.")
    if split == "interleaved":
        return tuple(range(fold, n_classes, folds))
    return tuple(range(fold * n_classes // folds, (fold + 1) * n_classes // folds))


def base_classes(n_classes: int, fold: int, split: str = "contiguous", folds: int = 4) -> tuple[int, ...]:
    """Class indices (from zero, ascending) that `fold` trains on: all but its novel classes.

    Raises:
        InputError: as `novel_classes`.
    """
    novel = set(novel_classes(n_classes, fold, split, folds))
    return tuple(index for index in range(n_classes) if index not in novel)
