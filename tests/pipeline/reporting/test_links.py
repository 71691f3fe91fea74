"""Addresses in the MLflow UI: relative, and safe inside Markdown."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from pipeline.reporting import links


def test_links_are_relative_to_whatever_host_shows_them() -> None:
    assert links.run("3", "ab" * 16, "5 production") == f"[5 production](#/experiments/3/runs/{'ab' * 16})"
    assert (
        links.artifact("3", "ab", "report.html", "Report") == "[Report](#/experiments/3/runs/ab/artifacts/report.html)"
    )
    assert links.version("my model", "2", "v") == "[v](#/models/my%20model/versions/2)"
    assert links.picture("ab", "small/equity.png", "E") == "![E](get-artifact?path=small%2Fequity.png&run_uuid=ab)"


def test_the_page_of_several_runs_is_asked_for_in_json() -> None:
    """Brackets and quotes are escaped: in Markdown they would end the link."""
    (address,) = links.side_by_side({"2", "1"}, ["a", "b"]).partition("](")[2:]
    assert not set('[]"()') & set(address[:-1]) and address.endswith(")")
    asked = parse_qs(address[:-1].partition("?")[2])
    assert json.loads(asked["runs"][0]) == ["a", "b"] and json.loads(asked["experiments"][0]) == ["1", "2"]
