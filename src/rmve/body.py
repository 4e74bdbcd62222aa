"""Where organs are in the human body, seen from the front: a table, and positions for cells that name their organ.

The frame is that of the anatomogram of the EBI Expression Atlas (CC BY 4.0), from whose organs centres and sizes were
measured: ``x`` to the right of the picture, ``y`` from the head (0) to the feet (195). Blood and other tissues that are
everywhere have no position.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

#: Centre, width and height of each organ.
ORGANS = pd.DataFrame.from_dict(
    {
        "adipose tissue": (69.2, 110.2, 1.7, 28.9),
        "adrenal gland": (59.7, 55.1, 5.4, 4.7),
        "aorta": (52.8, 60.0, 7.7, 43.3),
        "bladder": (53.1, 90.4, 11.5, 8.0),
        "bone marrow": (64.0, 116.5, 10.1, 49.7),
        "brain": (53.0, 7.6, 15.5, 12.1),
        "breast": (62.0, 47.0, 12.0, 10.0),
        "colon": (51.8, 80.7, 26.6, 29.5),
        "esophagus": (53.9, 43.5, 4.3, 36.6),
        "fallopian tube": (58.0, 87.7, 5.3, 5.5),
        "gall bladder": (51.0, 68.3, 6.0, 4.8),
        "heart": (53.1, 46.2, 9.7, 11.7),
        "kidney": (45.7, 63.8, 6.5, 12.9),
        "liver": (54.0, 64.0, 24.5, 14.7),
        "lung": (60.6, 45.3, 13.8, 25.1),
        "lymph node": (64.3, 141.4, 6.5, 6.9),
        "muscle": (45.0, 123.6, 4.1, 25.3),
        "nerve": (69.0, 192.6, 1.4, 1.4),
        "nose": (53.3, 12.7, 1.1, 1.0),
        "ovary": (56.8, 90.5, 2.2, 1.6),
        "pancreas": (57.6, 69.6, 12.7, 5.7),
        "pituitary gland": (53.0, 10.0, 1.6, 3.2),
        "placenta": (53.6, 89.3, 2.7, 1.1),
        "prostate gland": (52.7, 93.3, 6.8, 5.3),
        "rectum": (53.4, 94.9, 4.6, 5.8),
        "salivary gland": (53.0, 22.0, 13.5, 7.5),
        "skin": (53.0, 97.7, 0.0, 0.0),
        "small intestine": (53.0, 81.2, 24.6, 20.6),
        "spinal cord": (53.0, 45.9, 1.8, 73.2),
        "spleen": (64.6, 64.1, 4.3, 8.7),
        "stomach": (58.0, 66.3, 13.0, 11.2),
        "testis": (56.4, 102.8, 2.0, 5.3),
        "thyroid gland": (53.1, 29.6, 3.9, 2.7),
        "tongue": (53.0, 21.4, 4.0, 0.9),
        "trachea": (52.6, 31.4, 1.2, 1.4),
        "uterus": (54.3, 91.8, 2.8, 4.9),
        "vagina": (52.8, 95.9, 1.7, 3.1),
    },
    orient="index",
    columns=["x", "y", "width", "height"],
)
#: Other names of the same organs, as atlases write them, and parts of an organ, which are drawn as the whole.
SYNONYMS = {
    "adipose": "adipose tissue",
    "adrenal": "adrenal gland",
    "appendix": "colon",
    "artery": "aorta",
    "ascending colon": "colon",
    "bladder organ": "bladder",
    "blood vessel": "aorta",
    "cerebellum": "brain",
    "cervix": "uterus",
    "duodenum": "small intestine",
    "fat": "adipose tissue",
    "gallbladder": "gall bladder",
    "ileum": "small intestine",
    "intestine": "small intestine",
    "large intestine": "colon",
    "mammary": "breast",
    "musculature": "muscle",
    "oesophagus": "esophagus",
    "pituitary": "pituitary gland",
    "pleura": "lung",
    "prostate": "prostate gland",
    "sigmoid colon": "colon",
    "skeletal muscle": "muscle",
    "skin of body": "skin",
    "temporal lobe": "brain",
    "terminal ileum": "small intestine",
    "thyroid": "thyroid gland",
    "transverse colon": "colon",
    "urinary bladder": "bladder",
}
#: Left, right, top and bottom of the frame.
FRAME = (-2.0, 108.0, -3.0, 198.0)


def organ_positions(organs: pd.Series) -> np.ndarray:
    """Positions of the organs that cells come from.

    Parameters
    ----------
    organs
        Name of each cell's organ: those of :data:`ORGANS`, and common synonyms, in any case, with blanks or underscores.

    Returns
    -------
    Array of shape ``(n, 2)``; rows of NaN for organs without a position, such as blood, and unknown names.
    """
    names = organs.astype(str).str.lower().str.replace("_", " ").str.strip()
    names = names.replace(SYNONYMS)
    return ORGANS.reindex(names)[["x", "y"]].to_numpy(dtype=float)


def add_organ_positions(adata: AnnData, organ_key: str, key_added: str = "spatial") -> None:
    """Write the position of each cell's organ into ``adata.obsm``.

    Parameters
    ----------
    adata
        Cells.
    organ_key
        Column of ``adata.obs`` with the organ.
    key_added
        Key of ``adata.obsm``; an array of shape ``(n, 2)`` with rows of NaN where the organ has no position.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If no organ has a position, or ``key_added`` is taken.
    """
    if organ_key not in adata.obs:
        raise KeyError(f"`organ_key={organ_key!r}` is not a column of `adata.obs`.")
    if key_added in adata.obsm:
        raise ValueError(f"`adata.obsm[{key_added!r}]` is there already. Choose another `key_added`.")
    positions = organ_positions(adata.obs[organ_key])
    if np.isnan(positions).all():
        known = ", ".join(ORGANS.index[:6])
        raise ValueError(f"No organ in `adata.obs[{organ_key!r}]` has a position. Known are {known}, ...")
    adata.obsm[key_added] = positions
