# Sphinx configuration: https://www.sphinx-doc.org/en/master/usage/configuration.html
import importlib
import inspect
import os
import shutil
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent

# The executed notebooks of tutorials/ are shown as they are; docs/tutorials/ holds copies for the build only.
for copy in HERE.glob("tutorials/*.ipynb"):
    copy.unlink()
for notebook in HERE.parent.glob("tutorials/*.ipynb"):
    shutil.copy2(notebook, HERE / "tutorials")

project = "RMVE"
author = "the RMVE developers"
copyright = f"2026, {author}"
release = version = installed_version("rmve")
repository_url = "https://github.com/rmve/rmve"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # After napoleon.
    "sphinx-mathjax-offline",  # Formulas without the network.
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "README.md", "**.ipynb_checkpoints"]
suppress_warnings = [
    "sphinx_autodoc_typehints.forward_reference",  # Types that dependencies import for type checking only.
    "sphinx_autodoc_typehints.guarded_import",
]
# Said to its developers once for each type that it shows.
warnings.filterwarnings("ignore", module="sphinx_autodoc_typehints", category=PendingDeprecationWarning)
warnings.filterwarnings("ignore", module="sphinx_autodoc_typehints", category=DeprecationWarning)

# Pages
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Links: to the pages of other packages in the published build, which has the network, and to the source.
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scvi-tools": ("https://docs.scvi-tools.org/en/stable/", None),
}
if not os.environ.get("READTHEDOCS"):
    intersphinx_mapping = {}


def linkcode_resolve(domain: str, info: dict) -> str | None:
    """Address of the lines that define a name; none for what other packages define."""
    if domain != "py" or not info["module"]:
        return None
    defined = importlib.import_module(info["module"])
    try:
        for part in info["fullname"].split("."):
            defined = getattr(defined, part)
        defined = inspect.unwrap(getattr(defined, "fget", None) or defined)
        path = Path(inspect.getsourcefile(defined)).relative_to(HERE.parent)
        lines, first = inspect.getsourcelines(defined)
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return f"{repository_url}/blob/main/{path.as_posix()}#L{first}-L{first + len(lines) - 1}"


# API
autodoc_member_order = "bysource"
autosummary_generate = True
default_role = "literal"
napoleon_google_docstring = False
napoleon_include_init_with_doc = False
napoleon_use_rtype = False

# HTML
html_theme = "sphinx_book_theme"
html_title = "RMVE"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "path_to_docs": "docs",
    "repository_branch": "main",
    "repository_url": repository_url,
    "use_repository_button": True,
}
