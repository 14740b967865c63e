"""Decisions about one request. Pure: a head and plain values in, a value or a RouterError out."""
