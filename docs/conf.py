"""Sphinx's settings: `make docs` builds the site from this folder into dist/docs."""

import sys
from pathlib import Path

import rustloss

HERE = Path(__file__).parent
sys.path += [str(HERE / "_ext"), str(HERE.parent / "tests")]

project = "rustloss"
author = "The rustloss developers"
version = release = rustloss.__version__
root_doc = "index"
extensions = [
    "loss_pages",
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_ext", "losses/_*.md", "gallery/**/*.ipynb", "gallery/**/*.py"]
default_role = "py:obj"

html_theme = "furo"
html_title = "rustloss"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
# The adapters are documented without the libraries that they adapt to.
autodoc_mock_imports = ["autograd", "jax", "keras", "mxnet", "tensorflow", "torch"]
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}
