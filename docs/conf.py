import lerpscape

project = "lerpscape"
author = "the lerpscape developers"
version = release = lerpscape.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # README links to files outside of docs
autodoc_typehints = "description"
default_role = "code"
