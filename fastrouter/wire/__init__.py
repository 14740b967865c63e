"""Bytes <-> values of HTTP/1.1. Pure: no event loop, sockets, clocks or settings."""
