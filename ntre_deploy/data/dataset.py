"""What every dataset offers, and the size rule; `registry.py` opens them by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels

# A class counts in an image from here on, as in the image lists of PASCAL-5i and COCO-20i (PFENet)
MIN_TARGET_PIXELS = 2 * 32 * 32

# Called with (done, in all) while something long is read
Progress = Callable[[int, int], None]


class Dataset(Protocol):
    """Images with one mask per class; few-shot episodes are drawn from it.

    Class ids are 0, 1, 2, ... without gaps.  Everything is deterministic: two objects made from the same
    files or seed give the same lists and arrays.
    """

    @property
    def name(self) -> str:
        """Short name without machine-dependent parts; it is written into episode files."""
        ...

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> name, in the order of the ids."""
        ...

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the images that hold at least `MIN_TARGET_PIXELS` of the class, sorted.

        Raises:
            InputError: there is no such class, or a file behind it cannot be read.
        """
        ...

    def image(self, image_id: str) -> Pixels:
        """The photo as uint8 RGB [H, W, 3].

        Raises:
            InputError: there is no such image, or its file cannot be read.
        """
        ...

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W] of the image's size: 1 on the class, 0 elsewhere, 255 where pixels are to be ignored.

        Raises:
            InputError: there is no such image or class, or a file cannot be read.
        """
        ...


class DatasetView:
    """A dataset that shows another one: everything is asked of the one behind it, until a subclass knows better."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @property
    def name(self) -> str:
        """Of the dataset behind it."""
        return self._dataset.name

    @property
    def class_names(self) -> Mapping[int, str]:
        """Of the dataset behind it."""
        return self._dataset.class_names

    def images(self, class_id: int) -> Sequence[str]:
        """Of the dataset behind it."""
        return self._dataset.images(class_id)

    def image(self, image_id: str) -> Pixels:
        """uint8 RGB [H, W, 3]; raises what the dataset behind it raises."""
        return self._dataset.image(image_id)

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]; raises what the dataset behind it raises."""
        return self._dataset.mask(image_id, class_id)


@runtime_checkable
class Labelled(Protocol):
    """A dataset that knows every object of an image, and not only those of one class."""

    def labels(self, image_id: str) -> NDArray[np.uint16]:
        """uint16 [H, W]: class id + 1 of what is seen at a pixel, 0 for none.

        Raises:
            InputError: there is no such image, or its file cannot be read.
        """
        ...


def labelled(dataset: Dataset) -> Labelled:
    """The dataset as one that knows every object.

    Raises:
        InputError: it does not.
    """
    if not isinstance(dataset, Labelled):
        raise InputError(f"{dataset.name} has masks of single classes only; loss.dense needs rendered scenes.")
    return dataset


def check_class(name: str, class_names: Mapping[int, str], class_id: int) -> str:
    """Return the name of a class of the dataset called `name`.

    Raises:
        InputError: the dataset has no such class.
    """
    if class_id not in class_names:
        raise InputError(f"Dataset {name} has no class {class_id}; its classes are 0 to {len(class_names) - 1}.")
    return class_names[class_id]
