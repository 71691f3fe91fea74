"""A figure as SVG that stands inside the page and takes its fonts and colours: in light, in the dark, and in print."""

from __future__ import annotations

import html
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

THEME = {
    "#000000": "ink",
    "#555555": "ink-quiet",
    "#ffffff": "paper",
    "#e4e4e4": "grid",
    "#bbbbbb": "edge",
    "#8c8c8c": "grey",
    "#cfcfcf": "between",
    "#e9e9e9": "pale",
    "#fcebcf": "holdout",
    "#0072b2": "blue",
    "#d55e00": "vermilion",
    "#009e73": "green",
    "#56b4e9": "sky",
    "#e69f00": "orange",
    "#cc79a7": "purple",
}
"""Custom property of the page by the colour that figures are drawn in; any other colour stays as it is."""

_IMAGE_DPI = 200
"""Resolution of what has no lines, such as the cells of a heat map."""
_DROPPED = re.compile(r'<metadata>.*?</metadata>|<style type="text/css">.*?</style>', re.DOTALL)


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element of a page. `name` tells its inner ids from those of other figures; `label` is read to
    those who do not see it."""
    written = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", dpi=_IMAGE_DPI, facecolor="none", metadata={"Date": None})
    text = written.getvalue()
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view, "matplotlib gives every figure a viewBox"
    inner = text[text.index(">", view.end()) + 1 : text.rindex("</svg>")]
    inner = re.sub(r"<(\w+)([^<>]*)>", _slim, _DROPPED.sub("", inner))
    return f'<svg viewBox="{view[1]}" role="img" aria-label="{html.escape(label)}">{inner}</svg>'


def _slim(tag: re.Match[str]) -> str:
    """A start tag with the page's colours and font, coordinates to a hundredth of a point, and no id that nothing
    refers to."""
    name, attributes = tag[1], tag[2]
    if name == "image":
        return tag[0]
    if name == "g":
        attributes = re.sub(r' id="[^"]*"', "", attributes)
    attributes = re.sub(r"font-family: [^;\"]*;? ?", "", attributes)
    attributes = re.sub(r"(\d\.\d\d)\d+", r"\1", attributes)
    attributes = re.sub(r"(?<=: )#[0-9a-f]{6}\b", _themed, attributes)
    return f"<{name}{attributes}>"


def _themed(colour: re.Match[str]) -> str:
    return f"var(--{THEME[colour[0]]})" if colour[0] in THEME else colour[0]
