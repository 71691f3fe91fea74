"""A figure inside the page is the figure, in the page's colours and fonts."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.reporting.svg import THEME, inline_svg

NAMESPACE = ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def drawing(colour: str = "#0072B2") -> Figure:
    figure = Figure(figsize=(4, 2), dpi=150)
    axes = figure.subplots()
    axes.plot([0.0, 1.0], [0.00123456, 1.0], color=colour, marker="o")
    axes.set_yticks([0.00123456, 1.0], ["0.00123456", "a < b"])
    axes.imshow(np.eye(2), extent=(0.0, 1.0, 0.0, 1.0))
    return figure


def elements(text: str) -> list[ElementTree.Element]:
    """Of an SVG as a file, where its names need their spaces."""
    return list(ElementTree.fromstring(text.replace("<svg", f"<svg{NAMESPACE}", 1)).iter())


def test_it_is_one_element_with_a_name_for_those_who_do_not_see_it() -> None:
    text = inline_svg(drawing(), "one.png", 'equity & "drawdown"')
    root, *rest = elements(text)
    assert root.attrib["aria-label"] == 'equity & "drawdown"' and root.attrib["role"] == "img"
    assert root.attrib["viewBox"] == "0 0 288 144"  # inches by 72 points
    assert {one.tag.split("}")[1] for one in rest}.isdisjoint({"metadata", "style", "script"})


@pytest.mark.parametrize("colour", THEME)
def test_colours_of_the_theme_are_the_pages_and_others_stay(colour: str) -> None:
    assert f"stroke: var(--{THEME[colour]})" in inline_svg(drawing(colour), "one.png", "x")
    assert "stroke: #123456" in inline_svg(drawing("#123456"), "one.png", "x")
    # Black is what an element is filled with that says nothing: the page's stylesheet fills with its ink.
    assert "#000000" not in inline_svg(drawing(colour), "one.png", "x")


def test_text_is_as_it_was_and_coordinates_are_to_a_hundredth() -> None:
    text = inline_svg(drawing(), "one.png", "x")
    words = [one.text for one in elements(text) if one.tag.endswith("}text")]
    assert "0.00123456" in words and "a < b" in words
    assert "font-family" not in text
    paths = " ".join(one.attrib["d"] for one in elements(text) if one.tag.endswith("}path"))
    assert re.search(r"\d\.\d\d\b", paths) and not re.search(r"\d\.\d{3}", paths)


def test_what_refers_to_an_id_finds_it_in_its_own_figure() -> None:
    """Two figures on one page have no id in common, and the same figure is the same text each time."""
    texts = [inline_svg(drawing(), name, "x") for name in ("one.png", "two.png")]
    ids = [re.findall(r' id="([^"]+)"', text) for text in texts]
    assert not set(ids[0]) & set(ids[1])
    for text, own in zip(texts, ids, strict=True):
        assert len(own) == len(set(own))
        referred = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
        assert {one or other for one, other in referred} <= set(own)
    assert inline_svg(drawing(), "one.png", "x") == texts[0]
