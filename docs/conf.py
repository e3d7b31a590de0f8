"""How Sphinx makes the documentation. `make docs` turns every warning into an error."""

from importlib.metadata import version as installed_version

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "Handfast"
author = "the Handfast maintainers"
copyright = "the Handfast maintainers"  # noqa: A001  # the name is Sphinx's
version = release = installed_version("handfast")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"Handfast {release}"
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Diagrams in Mermaid are drawn where the repository is read; here their text is shown, without anybody's script."""
    app.add_lexer("mermaid", TextLexer)
