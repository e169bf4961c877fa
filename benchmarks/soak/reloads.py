"""A bundle opened, asked once and dropped, again and again."""

import time
from collections.abc import Callable
from typing import Any

from material import Material, digest
from queries import KEPT, Asked
from usage import Watch


def reload(
    load: Callable[[], Any],
    material: Material,
    expected: list[str],
    count: int,
    *,
    advance: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Asked:
    """Call `load` and ask what it gives for one pair after the other, until `interrupted`.

    Nothing is collected by hand: what is not gone when its last name goes would pile up in an application too.

    Args:
        load: opens a `Segmenter`.
        expected: of `first_masks`.
    """
    found, watch, began = Asked(), Watch(count), time.perf_counter()
    while found.completed < count and not interrupted():
        pair = found.completed % len(material.pairs)
        segmenter = load()
        labels = material.ask(segmenter, pair)
        del segmenter
        if digest(labels) != expected[pair]:
            found.wrong += 1
            if len(found.examples) < KEPT:
                found.examples.append({"reload": found.completed, "pair": pair})
        found.completed += 1
        watch.count(found.completed)
        advance()
    found.seconds = time.perf_counter() - began
    if watch.samples[-1].done < found.completed:
        watch.look(found.completed)
    found.samples = watch.samples
    return found
