"""WAT file or link list → pack.

warc.py ─▶ wat.py ─▶ urls.py, text.py, language.py ─▶ extract.py ─▶ pack
link_list_rows.py ─▶ link_lists.py ─▶ pack
"""
