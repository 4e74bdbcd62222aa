"""The report is one file that shows what was found, and runs nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest

from rmve.report import make_report

EVIL = "<script>alert('x')</script> & \"friends\""


class Reader(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def annotated(model, cells):
    """Cells with clusters, and a label with a name that is code."""
    model.annotate()
    cells.obs[EVIL] = cells.obs["cell_type"].cat.rename_categories({"A": EVIL})
    cells.obs["rmve"] = cells.obs["rmve"].cat.rename_categories({"0": EVIL})
    cells.uns["rmve"]["components"]["cluster"] = cells.uns["rmve"]["components"]["cluster"].replace("0", EVIL)
    return cells


def test_one_file_with_all_figures(annotated, model):
    """All images are inside, nothing is fetched, and a policy tells the browser so."""
    page = make_report(annotated, labels_key="cell_type", history=model.history)
    tags = Reader(page).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 8
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "a"}
    assert not re.search(r"https?://|url\(|@import", page)
    policies = [a["content"] for tag, a in tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_names_are_text(annotated):
    """Names from the data are shown, not run."""
    page = make_report(annotated, labels_key=EVIL, rows={"file": EVIL, EVIL: 1}, title=EVIL)
    reader = Reader(page)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert sum(EVIL in text for text in reader.text) >= 4  # title, heading, file, row, cluster


def test_numbers_are_those_of_the_data(annotated):
    """Cells, shares and components of each cluster."""
    reader = Reader(make_report(annotated))
    size = int((annotated.obs["rmve"] == EVIL).sum())
    position = reader.text.index(EVIL)
    assert reader.text[position + 1 : position + 3] == [str(size), f"{size / 240:.1%}"]


def test_no_figure_is_left_open(annotated):
    """Figures are closed after use."""
    plt.close("all")
    make_report(annotated)
    assert plt.get_fignums() == []


def test_without_results(cells):
    """Cells without results, or an unknown column, are refused by name."""
    with pytest.raises(KeyError, match="model.annotate"):
        make_report(cells)


def test_unknown_labels(annotated):
    """A column that is missing is named."""
    with pytest.raises(KeyError, match="kind.* is not a column"):
        make_report(annotated, labels_key="kind")
