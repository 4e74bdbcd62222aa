"""Figures take the colours and the columns that scanpy takes, and draw any name as text."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from rmve import pl
from rmve.pl._names import plain

RED, GREEN, BLUE = "#ff0000", "#00ff00", "#0000ff"
#: Forms of three colours that may stand in `uns`.
FORMS = {
    "names": ["red", "lime", "blue"],
    "array of names": np.array(["red", "lime", "blue"]),
    "hexadecimal": [RED, GREEN, BLUE],
    "objects": np.array([RED, GREEN, BLUE], dtype=object),
    "bytes": np.array([b"red", b"lime", b"blue"]),
    "RGBA rows": np.array([[1.0, 0, 0, 1], [0, 1.0, 0, 1], [0, 0, 1.0, 1]]),
    "RGB rows": np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]),
    "tuples": [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)],
    "bytes of colour": np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]]),
    "dictionary": {"C": "blue", "B": "lime", "A": "red"},
    "more than enough": ["red", "lime", "blue", "black"],
}


def drawn(axes) -> set[str]:
    return {to_hex(color) for color in axes.collections[0].get_facecolors()}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("figure", [pl.embedding, pl.spatial])
def test_colors_of_the_data(annotated, form, figure):
    """Whatever their form, the colours in `uns` are those of the figure."""
    annotated.uns["cell_type_colors"] = form
    assert drawn(figure(annotated, color="cell_type")) == {RED, GREEN, BLUE}


def test_colors_of_r(annotated):
    """Names that R has and matplotlib has not."""
    annotated.uns["cell_type_colors"] = ["yellow4", "grey51", "gold2"]
    assert len(drawn(pl.embedding(annotated, color="cell_type"))) == 3
    assert "#828282" in drawn(pl.embedding(annotated, color="cell_type"))


@pytest.mark.parametrize("form", [["red", "nonsense", "blue"], [1, 2, "x"], [(1, 2), (3, 4), (5, 6)]])
def test_no_colors(annotated, form):
    """What is no colour is warned of, and the defaults are drawn."""
    annotated.uns["cell_type_colors"] = form
    with pytest.warns(UserWarning, match="cell_type_colors"):
        axes = pl.embedding(annotated, color="cell_type")
    assert len(drawn(axes)) == 3


@pytest.mark.parametrize(
    "values",
    [
        np.arange(240),
        np.arange(240).astype(np.uint8),
        pd.array([*range(239), None], dtype="Int64"),
        pd.array([*range(239), None], dtype="Float32"),
        np.where(np.arange(240) == 3, np.inf, np.arange(240.0)),
    ],
    ids=["int", "uint8", "Int64", "Float32", "infinite"],
)
@pytest.mark.parametrize("figure", [pl.embedding, pl.spatial, pl.body_map])
def test_numbers_are_numbers(annotated, figure, values):
    """Integers, too, of all kinds: a scale and no names."""
    annotated.obs["n"] = values
    options = {"basis": "spatial"} if figure is pl.body_map else {}
    axes = figure(annotated, color="n", **options)
    assert not [text for text in axes.texts if text.get_text()]
    assert axes.get_legend() is None
    assert len(axes.figure.axes) == 2


@pytest.mark.parametrize(
    "values",
    [
        np.arange(240) % 2 == 0,
        pd.array([True, False, None] * 80, dtype="boolean"),
        pd.array(["a", "b", None] * 80, dtype="string"),
        pd.Categorical(np.arange(240) % 2),
        np.array(["a", "b"] * 120, dtype=object),
    ],
    ids=["bool", "boolean", "string", "categorical numbers", "object"],
)
@pytest.mark.parametrize("figure", [pl.embedding, pl.spatial])
def test_categories_are_categories(annotated, figure, values):
    """Booleans, text and categories have a name each."""
    annotated.obs["kind"] = values
    axes = figure(annotated, color="kind")
    legend = axes.get_legend()
    texts = legend.get_texts() if legend else axes.texts
    assert len([text for text in texts if text.get_text() not in ("", "NA")]) == 2


def test_genes_are_columns(annotated):
    """A gene colours by its values."""
    assert len(pl.embedding(annotated, color="gene 3").figure.axes) == 2
    with pytest.raises(KeyError, match="nor a gene"):
        pl.embedding(annotated, color="gene x")


@pytest.mark.parametrize("figure", [pl.embedding, pl.spatial])
def test_no_legend_of_hundreds(annotated, figure):
    """A name for each cell helps nobody and takes minutes."""
    annotated.obs["barcode"] = annotated.obs_names.to_numpy()
    axes = figure(annotated, color="barcode")
    assert axes.get_legend() is None
    assert not axes.texts


ODD = {
    "broken formula": "a_{b$ and $c^",
    "formula": "$x^2$",
    "backslash": r"\frac{$",
    "surrogate": "a\ud800b",
    "lines": "a\n" * 200,
    "control": "a\x00\x1bb",
    "long": "x" * 20_000,
    "empty": "",
    "underscore": "_hidden",
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_odd_names_are_drawn_as_text(annotated, name):
    """In every figure that draws names of clusters, labels, columns and genes."""
    annotated.obs["rmve"] = annotated.obs["rmve"].cat.rename_categories({"0": name})
    components = annotated.uns["rmve"]["components"]
    components["cluster"] = components["cluster"].astype(str).replace("0", name)
    annotated.obs[name] = annotated.obs["rmve"].to_numpy()
    annotated.uns["rmve"]["spatial_genes"].index = [name, *annotated.var_names[1:]]
    axes = [
        pl.embedding(annotated),
        pl.embedding(annotated, color=name),
        pl.spatial(annotated, color=name),
        pl.confusion(annotated, name),
        pl.confidence(annotated),
        pl.components(annotated),
        pl.separation(annotated),
        pl.merge_tree(annotated),
        pl.spatial_genes(annotated, n_genes=60),
        pl.body_map(annotated, basis="spatial"),
    ]
    for each in axes:
        each.figure.canvas.figure.draw_without_rendering()
        plt.close(each.figure.canvas.figure)


def test_plain():
    """One short line, that matplotlib takes for no formula."""
    assert plain("CD4+ T") == "CD4+ T"
    assert plain("a\nb\t c") == "a b c"
    assert plain("$a$") == r"\$a\$"
    assert plain("x" * 50) == "x" * 39 + "…"
    assert plain(3) == "3"
