"""Blind comparison of results by people: a page without a server, its votes, and what they say."""
