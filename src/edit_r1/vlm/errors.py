"""What goes wrong with a model before it can answer."""

from __future__ import annotations


class ModelError(ValueError):
    """A model that is missing, foreign or damaged; the message is one line that says what to do."""
