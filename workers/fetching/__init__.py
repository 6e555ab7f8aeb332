"""Fetch links from servers that may be hostile: one URL in, one outcome out.

The path of a link: target (parse) → resolve (DNS) → addresses (check) → session (connect and send; only it imports
asks) → response (read head and body within bounds) → fetch (redirects, opt_out, retry_after, one outcome).
"""
