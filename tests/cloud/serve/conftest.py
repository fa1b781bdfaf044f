"""A ceremony's parties, and the embedded database of the session."""

from back_office_parts import parties

__all__ = ["parties"]
