"""Fetching from a web that is hostile: one URL in, one outcome out.

The path of a link: target (parse) → resolve (DNS) → addresses (check) → session (connect, ask; the only module that
knows asks) → response (head and body, read within bounds) → fetch (redirects, opt_out, retry_after, and one outcome for
all of it).
"""
