"""Takedown: what a request names leaves every copy, and stays away.

    request ─▶ entries ─▶ deny list ─┬─▶ screen: hidden from select and search at once
                                     ├─▶ tracker serve, publish: refused from the next job
                                     └─▶ apply: scan ─▶ targets ─▶ crawl files, release, side tables, embeddings, index
                                                                ─▶ record (a MAJOR version) ─▶ verify

Invariant: a plan fixes which lists are applied and what the next version is; a unit of work writes whole files and may
be repeated, so an apply that was ended anywhere goes on from there, and the bytes are the same.
"""
