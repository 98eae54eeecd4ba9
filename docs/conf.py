"""The documentation site: ``./do docs`` builds it from these pages and the docstrings, without the network."""

from graphshard import __version__

project = "graphshard"
author = "graphshard maintainers"
release = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
html_theme = "furo"
html_title = "graphshard"
exclude_patterns = ["bench", "_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
