"""Embedded sandboxes and a DNS server: behind `fastrouter demo`, and under the tests."""
