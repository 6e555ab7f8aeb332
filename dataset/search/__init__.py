"""The search server: an index over HTTP, with clip-retrieval's API and our own.

The path of a query: clip_retrieval or api (parse) → terms (text, pictures, ids → one vector) → encoder (a process of
its own) → work_queue (bounded, equal filters together) → engine (the index) → answers. The server fetches nothing:
fetcher_client asks `worker fetcher` for pictures by URL.
"""
