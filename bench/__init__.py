"""The benchmark: the router against a raw TCP relay, the ceiling for Python (``python -m bench``)."""
