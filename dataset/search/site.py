"""The application of a service: its routes, errors as JSON, and what is around it."""

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from dataset.search.answers import failed, http_error, refused
from dataset.search.errors import SearchError
from dataset.search.exports import Exports
from dataset.search.guard import Guard
from dataset.search.options import SiteOptions
from dataset.search.quota import Quota
from dataset.search.release_pages import ReleasePages
from dataset.search.routes import Routes
from dataset.search.service import Service

SECURITY = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
OUR_PAGE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob: http: https:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
}
"""Our page loads pictures from anywhere, and nothing else; another page may need more."""


@dataclass(slots=True)
class Site:
    """The application and what has to be closed after it."""

    app: ASGIApp
    exports: Exports
    pages: ReleasePages

    def close(self) -> None:
        """Stop what is computed, and delete exports."""
        self.pages.close()
        self.exports.close()


def make_site(service: Service, options: SiteOptions) -> Site:
    """Return the application of a service.

    Raises: ReleaseError, StoreError when a release cannot be opened.
    """
    pages = ReleasePages(options.releases)
    exports = Exports(options.exports)
    inner = Starlette(
        routes=Routes(service, options, exports, pages).table(),
        exception_handlers={SearchError: refused, HTTPException: http_error, Exception: failed},  # type: ignore[dict-item]
    )
    headers = SECURITY if options.page else SECURITY | OUR_PAGE
    app: ASGIApp = Guard(inner, service.metrics, Quota(options.per_second, options.burst), headers)
    if options.cors:
        app = CORSMiddleware(app, allow_origins=[*options.cors], allow_methods=["*"], allow_headers=["*"])
    return Site(app, exports, pages)
