"""Supports of several classes as the query graph takes them: all keys in one array, cut into chunks of one size.

A shot has as many keys as its target covers places, from a few to thousands.  Each shot fills whole chunks, and a table
says which are whose, so that memory and time follow what is there and not the largest target of all.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError

if TYPE_CHECKING:
    from ntre_deploy.runtime.support import SupportMemory

Float = NDArray[np.float32]

# keys of a chunk: shots of photos have some 500 keys at 473 pixels, so 16 of zeros at the end of each cost 3 %
CHUNK = 32
# few distinct numbers of chunks mean few shapes for an engine to plan for; four to an octave pad 13 % on average, where
# powers of two pad 50 %: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...
_QUARTERS = (4, 5, 6, 7)
_NO_SHOT = -1


class StackedSupports(NamedTuple):
    """Supports of N classes with up to K shots each.

    Engines may keep them in other memory than the host's; their shapes stay.

    Attributes:
        prototypes: float32 [N, C].
        keys: float32 [P, L, D], P chunks of L keys: rows of norm 1, or zeros, which never win a maximum because
            features behind a ReLU make every similarity >= 0.  Each chunk is of one shot, those of a class follow one
            another, and those that the table does not name are padding.
        chunks: int32 [N, K, Q], the numbers of each shot's chunks, the first one repeated where it has fewer than Q;
            -1 all over for a shot that is not there, which the graph leaves out of the mean.  Small, and on the host
            unless `keep_supports` has moved it.
    """

    prototypes: Any
    keys: Any
    chunks: Any


def stack_memories(memories: Sequence["SupportMemory"]) -> StackedSupports:
    """The supports of N classes; K is the largest number of shots."""
    return stack([memory.prototype for memory in memories], [memory.keys for memory in memories])


def stack(prototypes: Sequence[Float], keys: Sequence[Sequence[Float]]) -> StackedSupports:
    """Of N classes the prototypes [C], and for each shot the keys [D, M]; M may differ, and be 0."""
    depth = keys[0][0].shape[0]
    # a target that vanished still takes part, with a chunk of zeros
    needed = [[max(-(-own.shape[1] // CHUNK), 1) for own in shots] for shots in keys]
    stacked = np.zeros((padded(sum(map(sum, needed))), CHUNK, depth), np.float32)
    chunks = np.full((len(keys), max(map(len, keys)), padded(max(map(max, needed)))), _NO_SHOT, np.int32)
    start = 0
    for n, shots in enumerate(keys):
        for k, own in enumerate(shots):
            rows = stacked[start : start + needed[n][k]].reshape(-1, depth)
            rows[: own.shape[1]] = own.T
            chunks[n, k] = start
            chunks[n, k, : needed[n][k]] = np.arange(start, start + needed[n][k])
            start += needed[n][k]
    return StackedSupports(np.stack(prototypes), stacked, chunks)


def lots(supports: StackedSupports, most_classes: int, most_chunks: int) -> Iterator[StackedSupports]:
    """Supports in lots of consecutive classes, each of which an engine takes at once.

    Args:
        supports: with `chunks` on the host; the others are only cut along their first axis, wherever they lie.
        most_classes, most_chunks: what the engine takes.

    Raises:
        EngineError: one class alone has more chunks.
    """
    table = np.asarray(supports.chunks)
    # of each class the first chunk and the one behind its last
    firsts = [int(own[own >= 0].min()) for own in table]
    ends = [int(own.max()) + 1 for own in table]
    n = 0
    while n < len(table):
        stop = n + 1
        if ends[n] - firsts[n] > most_chunks:
            raise EngineError(
                f"Class {n + 1} has {(ends[n] - firsts[n]) * CHUNK} support keys and the engine takes "
                f"{most_chunks * CHUNK} at once; build it for more shots, or give fewer."
            )
        while stop < len(table) and stop - n < most_classes and ends[stop] - firsts[n] <= most_chunks:
            stop += 1
        total = supports.keys.shape[0]
        length = min(padded(ends[stop - 1] - firsts[n]), most_chunks, total)
        # with other classes' keys as padding; the last lot begins before its own
        first = min(firsts[n], total - length)
        own = table[n:stop]
        yield StackedSupports(
            supports.prototypes[n:stop],
            supports.keys[first : first + length],
            np.where(own < 0, own, own - first).astype(np.int32),
        )
        n = stop


def padded(chunks: int) -> int:
    """The number of chunks, of all shots or of the largest one, that so many are stacked to."""
    octave = 0
    while True:
        for quarter in _QUARTERS:
            if (size := quarter << octave) >= chunks:
                return size if chunks > _QUARTERS[0] else chunks
        octave += 1
