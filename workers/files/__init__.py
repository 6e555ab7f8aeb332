"""Files that a stage reads from outside the store: a folder, an object store or a web server.

connections.py ─▶ http_file.py ─▶ link_list_file.py, extract/wat_source.py
"""
