"""Transports: connections, the pool, names, deadlines. Bytes and lifetimes, no header names."""
