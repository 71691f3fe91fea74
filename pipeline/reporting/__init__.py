"""What a person sees of a run: tables, figures, the page."""
