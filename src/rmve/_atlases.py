"""Loaders of public atlases of human organs: each a file at a fixed address, made into one kind of AnnData."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from rmve._docs import shared
from rmve._files import replacing
from rmve.body import add_organ_positions
from rmve.data.download import cache_folder, retrieve

documented = shared(
    fetched="""
    folder, progressbar
        As in :func:`rmve.datasets.fetch_h5ad`.
    """,
    not_had="""
    ValueError
        If the file holds something else.
    OSError
        If the file cannot be had.
    """,
)

GITHUB = "https://raw.githubusercontent.com"
#: Name of a profile: type, state or nothing, sample, and a number where others have the same name. Other studies in the same
#: file name their samples otherwise.
PROFILE = r"(?P<cell_state>(?P<cell_type>[^_]+).*)_(?P<sample>(?:Adult|Fetal|ChorionicVillus|CordBlood|Placenta(?=-|$))[^_-]*(?:-[A-Z][^_-]*)?)(?:-\d)?$"
#: Organ of a sample: the words between stage and number.
ORGAN = r"(?:Adult|Fetal)?[- ]?(\w+?)(?:CD34[NP])?\d*$"
#: Names of organs that are more or less than those words.
ORGANS = {
    "chorionic villus": "placenta",
    "epityphlon": "appendix",
    "female gonad": "ovary",
    "gallbladder wall": "gall bladder",
    "male gonad": "testis",
}


@dataclass(frozen=True)
class Atlas:
    """A public file, and what is made of it.

    Attributes
    ----------
    file
        Name in the cache of the h5ad file that is made.
    url, sha256
        Address of the public file, and its checksum.
    counts_sha256
        Checksum of counts and names in what is made, :func:`digest`.
    convert
        From the public file to cells with their counts.
    """

    file: str
    url: str
    sha256: str
    counts_sha256: str
    convert: Callable[[Path], ad.AnnData]

    def load(self, folder: str | Path | None, progressbar: bool) -> ad.AnnData:
        """Cells from the cache, where they are put if they are not there.

        Raises
        ------
        ValueError
            If the file holds something else.
        OSError
            If the file cannot be had.
        """
        path = cache_folder(folder) / self.file
        if not path.exists():
            public = retrieve(self.url, self.sha256, self.url.rsplit("/", 1)[-1], path.parent, progressbar)
            with replacing(path) as temporary:
                self.convert(public).write_h5ad(temporary, compression="gzip")
        adata = ad.read_h5ad(path)
        if digest(adata) != self.counts_sha256:
            raise ValueError(f"{path} does not hold the cells of this atlas. Delete it to have it downloaded.")
        return adata


def digest(adata: ad.AnnData) -> str:
    """Checksum of counts, cells and genes."""
    counts = sp.csr_matrix(adata.X)
    counts.sum_duplicates()
    parts = ("\n".join(adata.obs_names).encode(), "\n".join(adata.var_names).encode())
    arrays = (counts.indptr.astype("<i8"), counts.indices.astype("<i8"), counts.data.astype("<f4"))
    return hashlib.sha256(b"\0".join((*parts, *(array.tobytes() for array in arrays)))).hexdigest()


def describe_profiles(names: pd.Index) -> pd.DataFrame:
    """What the name of a profile of the Human Cell Landscape says; rows of NaN for profiles of other studies."""
    obs = names.to_series().str.extract(PROFILE).apply(lambda column: column.str.strip())
    words = obs["sample"].str.extract(ORGAN)[0].str.replace(r"(?<=[a-z])(?=[A-Z])", " ", regex=True)
    obs["organ"] = words.str.lower().replace(ORGANS)
    obs["stage"] = obs["sample"].str.extract("^(Adult|Fetal)")[0].str.lower().fillna("birth")
    return obs


def _convert_profiles(path: Path) -> ad.AnnData:
    """Three times the values: they are means of three whole numbers."""
    try:
        import rdata
    except ImportError as error:
        raise ImportError('`rmve.datasets.hcl_profiles` needs another package: pip install "rmve[r]"') from error
    (table,) = rdata.read_rda(path).values()  # genes and profiles
    matrix = table.to_pandas().T
    adata = ad.AnnData(sp.csr_matrix(np.round(3.0 * matrix.to_numpy()), dtype=np.float32))
    adata.obs_names, adata.var_names = matrix.index.str.replace("&#10;", ""), matrix.columns
    adata.obs_names_make_unique()
    return adata


def _convert_heart(path: Path) -> ad.AnnData:
    adata = ad.read_h5ad(path)
    adata.var_names = adata.var["feature_name"].astype(str)
    return _with_counts(adata, adata.obs[["cell_type", "cell_state", "donor_id"]].assign(organ="heart"))


def _convert_gut(path: Path) -> ad.AnnData:
    adata = ad.read_h5ad(path)
    organ, layer = adata.obs["batch"].astype(str).str.extract(r"(\w+)_(\w+)\.scp").T.to_numpy()
    obs = adata.obs[["Celltype", "donor_id"]].rename(columns={"Celltype": "cell_type"})
    return _with_counts(adata, obs.assign(organ=np.where(organ == "TI", "terminal ileum", "colon"), layer=layer))


def _with_counts(adata: ad.AnnData, obs: pd.DataFrame) -> ad.AnnData:
    """The genes that were counted at all."""
    counts = sp.csr_matrix(adata.X, dtype=np.float32)
    made = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=adata.var_names))
    return made[:, np.asarray(counts.sum(0)).ravel() > 0].copy()


PROFILES = Atlas(
    "hcl_profiles.h5ad",
    f"{GITHUB}/ggjlab/scHCL/0ea579017e01f147f335d83194da329b472dc9fd/data/ref.expr.rda",
    "4aad229a8d60ab593fdae06bd836cc52404965e625ce2c2f44c8d58328adf8a7",
    "66bdcbe7cef6a601a14bba3aa7a4347d7d39c79a876139c85ca916b98bac2b58",
    _convert_profiles,
)
HEART = Atlas(
    "hca_heart_san_1000.h5ad",
    f"{GITHUB}/czi-ai/transcriptformer/6dd620553ead29af56f866493f13e6fe89ce9225/test/data/human_val.h5ad",
    "1168cbc6488b017adc736a43d7a7c486b3aa409be742c918fc89ef1a2083b492",
    "5d6c21602a496ca2c6ee8b0607aacc92535978e6b9ec864e4cc25ed24d3d4c1f",
    _convert_heart,
)
GUT = Atlas(
    "gut_scp1884_1020.h5ad",
    f"{GITHUB}/BiomedSciAI/biomed-multi-omic/78d2ba11e39e6027fe27c950b096be33d992bcbe/bmfm_targets/tests/resources/finetune/SCP1884/h5ad/scp1884.h5ad",
    "b8f5194a4969e93ab2cf33580a554f87235f6e16a611efa9149ef5e0b4d69d19",
    "c43a7c3144def1b80ff2a7693ca647143c3db1e54b16aa5de084d56387ce3464",
    _convert_gut,
)


@documented
def hcl_profiles(folder: str | Path | None = None, progressbar: bool = True) -> ad.AnnData:
    """Profiles of cell types all over the human body: the Human Cell Landscape.

    Each row is a *profile*, not a cell: the mean of about a hundred cells of one type in one tissue sample, as the authors
    of the atlas (Han *et al.*, 2020) made them for their own classifier, with low values set to zero. Profiles of other studies in
    the same file are left out: a study has few organs, so that the two cannot be told apart. The file of 2.3 MB (GPL-3) is
    downloaded once, which needs the package ``rdata`` (``pip install "rmve[r]"``); a file ``hcl_profiles.h5ad`` in the cache is
    taken if it holds the same profiles.

    Parameters
    ----------
    %(fetched)s

    Returns
    -------
    AnnData of 1,187 profiles and 5,467 genes with whole numbers in ``X``. ``obs`` has ``cell_type``, ``cell_state``, the
    tissue ``sample``, its ``organ`` and its ``stage`` (adult, fetal or birth); ``obsm["spatial"]`` the place of the organ
    in the body, see :func:`rmve.body.organ_positions`.

    Raises
    ------
    ImportError
        If ``rdata`` is not installed, and the file is not in the cache.
    %(not_had)s
    """
    adata = PROFILES.load(folder, progressbar)
    adata = ad.AnnData(adata.X, obs=describe_profiles(adata.obs_names), var=adata.var[[]])
    adata = adata[adata.obs["sample"].notna()].copy()
    add_organ_positions(adata, "organ")
    return adata


@documented
def heart_nuclei(folder: str | Path | None = None, progressbar: bool = True) -> ad.AnnData:
    """1,000 nuclei of the human sinoatrial node, from the Human Cell Atlas.

    Nuclei of one donor of Kanemaru *et al.* (2023), 10x multiome, with the authors' labels (CC BY 4.0). The file of 21 MB is
    downloaded once; a file ``hca_heart_san_1000.h5ad`` in the cache is taken if it holds the same nuclei.

    Parameters
    ----------
    %(fetched)s

    Returns
    -------
    AnnData of 1,000 nuclei and 23,774 genes with counts in ``X``. ``obs`` has ``cell_type``, ``cell_state``, ``donor_id``
    and ``organ``.

    Raises
    ------
    %(not_had)s
    """
    return HEART.load(folder, progressbar)


@documented
def gut_cells(folder: str | Path | None = None, progressbar: bool = True) -> ad.AnnData:
    """1,020 cells of the human ileum and colon.

    Fifteen cells of each of the 68 types of Kong *et al.* (2023), of 69 donors, with the authors' labels (Apache-2.0). The file
    of 3.3 MB is downloaded once; a file ``gut_scp1884_1020.h5ad`` in the cache is taken if it holds the same cells.

    Parameters
    ----------
    %(fetched)s

    Returns
    -------
    AnnData of 1,020 cells and 17,835 genes with counts in ``X``. ``obs`` has ``cell_type``, ``donor_id``, ``organ`` and
    ``layer`` (EPI, IMM or STR).

    Raises
    ------
    %(not_had)s
    """
    return GUT.load(folder, progressbar)
