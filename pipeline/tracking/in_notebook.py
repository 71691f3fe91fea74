"""Progress in a notebook: one line under the cell that moves, and above it the lines that stay."""

from __future__ import annotations

from html import escape

from IPython.display import HTML, DisplayHandle, display

from pipeline.tracking.progress import Reporter


class InNotebook(Reporter):
    """A reporter whose progress is one output of the cell, rewritten at most once a second."""

    every_s = 1.0

    def __init__(self) -> None:
        super().__init__(terminal=False)
        self._shown: DisplayHandle | None = None

    def say(self, text: str) -> None:
        print(text, flush=True)

    def show(self, line: str) -> None:
        bar = f'<progress value="{self._done}" max="{self._total}"></progress> {escape(line)}'
        if self._shown is None:
            self._shown = display(HTML(bar), display_id=True)
        else:
            self._shown.update(HTML(bar))
