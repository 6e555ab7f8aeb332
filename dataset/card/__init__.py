"""The card of a release: what people and programs read before they use it.

    release.json + saved statistics ─▶ README.md, plots/*.svg (people, the Hub)   croissant.json (programs)

All files are made from the record and the statistics of the data files alone, so a release has one card, in the same
bytes whoever writes it. publish and takedown write it before the checksums and release.json.
"""
