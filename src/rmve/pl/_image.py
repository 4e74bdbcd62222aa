"""The picture of a tissue, below its cells, as scanpy and squidpy store it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from rmve._validation.arguments import shorten
from rmve.pl._values import suggestion

#: Chooses the image that the cells have, if any.
AUTO = "auto"
#: Images that it prefers.
PREFERRED = ("hires", "lowres")


@dataclass(frozen=True)
class TissueImage:
    """An image whose pixels lie on the coordinates of cells.

    Attributes
    ----------
    pixels
        Shape ``(height, width)`` or ``(height, width, 3 or 4)``.
    scale
        Pixels in a unit of the coordinates.
    """

    pixels: np.ndarray
    scale: float

    def draw(self, ax: Axes, alpha: float) -> None:
        """Draw the image below everything else; limits are set by the cells."""
        height, width = self.pixels.shape[:2]
        left, right, bottom, top = (np.array([0, width, height, 0]) - 0.5) / self.scale
        cmap = "gray" if self.pixels.ndim == 2 else None
        ax.imshow(self.pixels, extent=(left, right, bottom, top), alpha=alpha, cmap=cmap, zorder=-1)


def read_image(
    adata: AnnData,
    spatial_key: str,
    axes: Sequence[int],
    img_key: str | None,
    img: Any,
    library_id: str | None,
    scale_factor: float | None,
) -> TissueImage | None:
    """The image that a figure asks for; ``None`` for no image.

    Parameters
    ----------
    adata
        Cells.
    spatial_key
        Key of ``adata.obsm`` with their positions; ``adata.uns[spatial_key]`` holds the images of each section.
    axes
        The two coordinates of the figure.
    img_key
        Key of the image; :data:`AUTO` takes what there is.
    img
        The image, if it is not in ``adata.uns``.
    library_id
        The section; ``None`` is the only one.
    scale_factor
        Pixels in a unit of the coordinates; ``None``: what is stored with the image, 1 for ``img``.

    Raises
    ------
    KeyError
        If there is no such section, image or scale factor.
    ValueError
        If several sections have images, or the figure shows other coordinates than an image has.
    """
    if img is None and img_key is None:
        return None
    sections = image_sections(adata, spatial_key)
    if img is None and img_key == AUTO and library_id is None:
        section = next(iter(sections.values())) if len(sections) == 1 and tuple(axes) == (0, 1) else {}
        return _preferred(section, scale_factor)
    if tuple(axes) != (0, 1):
        raise ValueError(f"An image lies on `axes=(0, 1)`; got {tuple(axes)}. Leave the image out.")
    if img is not None:
        return TissueImage(np.asarray(img), 1.0 if scale_factor is None else scale_factor)
    section = _section(sections, spatial_key, library_id)
    if img_key == AUTO:
        return _preferred(section, scale_factor)
    images = section.get("images", {})
    if img_key not in images:
        known = shorten(list(images)) or "none"
        raise KeyError(f"`img_key={img_key!r}` is no image.{suggestion(img_key, images)} The images: {known}.")
    scale = _stored_scale(section, str(img_key)) if scale_factor is None else scale_factor
    if scale is None:
        raise KeyError(f"The image {img_key!r} has no scale factor. Give its pixels per unit as `scale_factor`.")
    return TissueImage(np.asarray(images[img_key]), scale)


def image_sections(adata: AnnData, spatial_key: str) -> dict[str, Mapping]:
    """Sections of ``adata.uns`` that have images, or the scale of images, by their name."""
    sections = adata.uns.get(spatial_key)
    if not isinstance(sections, Mapping):
        return {}
    return {name: part for name, part in sections.items() if isinstance(part, Mapping) and "scalefactors" in part}


def _section(sections: dict[str, Mapping], spatial_key: str, library_id: str | None) -> Mapping:
    """The section asked for, or the only one."""
    known = shorten(list(sections)) or "none"
    if library_id is None and len(sections) > 1:
        raise ValueError(f"Several sections have images. Choose one as `library_id`: {known}.")
    if library_id is not None and library_id not in sections or not sections:
        asked = "An image" if library_id is None else f"`library_id={library_id!r}`"
        near = "" if library_id is None else suggestion(library_id, sections)
        raise KeyError(f"{asked} is not in `adata.uns[{spatial_key!r}]`.{near} The sections: {known}.")
    return sections[library_id] if library_id is not None else next(iter(sections.values()))


def _preferred(section: Mapping, scale_factor: float | None) -> TissueImage | None:
    """The best image of a section whose scale is known."""
    images = section.get("images", {})
    for name in sorted(images, key=lambda name: (*(name != best for best in PREFERRED), name)):
        scale = _stored_scale(section, name) if scale_factor is None else scale_factor
        if scale is not None:
            return TissueImage(np.asarray(images[name]), scale)
    return None


def _stored_scale(section: Mapping, img_key: str) -> float | None:
    scale = section.get("scalefactors", {}).get(f"tissue_{img_key}_scalef")
    return None if scale is None else float(scale)
