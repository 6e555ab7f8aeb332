"""The card of a release: its description for people and programs.

    release.json + saved statistics ─▶ README.md, plots/*.svg (people, the Hub)   croissant.json (programs)

All files are made only from the record and the statistics of the data files: publish and takedown write the same bytes.
They write the card before the checksums and release.json.
"""
