from importlib import import_module

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

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


class PublicNames(SphinxDirective):
    """`.. public-names:: lerpscape.studies` documents every public name of a folder that `lerpscape` itself has not."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = import_module(self.arguments[0])
        lines = []
        for name in sorted(set(package.__all__) - set(lerpscape.__all__), key=str.lower):
            if isinstance(getattr(package, name), type):
                lines += [f".. autoclass:: {package.__name__}.{name}", "   :members:", ""]
            else:
                lines += [f".. autofunction:: {package.__name__}.{name}", ""]
        self.content = StringList(lines, source=self.get_source_info()[0])
        return self.parse_content_to_nodes()


def setup(app: Sphinx) -> None:
    app.add_directive("public-names", PublicNames)
