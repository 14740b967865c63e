"""fastrouter: one address in front of thousands of short-lived sandboxes."""

__version__ = "0.1.0"
