"""The stage ingest: packs and link lists → pool.

link_list.py ─▶ packs in the store ─▶ packs.py (read, select, shuffle) ─▶ copy_stream.py ─▶ pool
                                          └─ filter_slot.py: the Bloom filter that finds the URLs that are new
"""
