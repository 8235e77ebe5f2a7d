"""Sockets to a Redis server: transport, handshake, multiplexer, pool, backoff."""
