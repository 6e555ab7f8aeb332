"""The screens of URLs and captions."""

import pyarrow as pa
import pytest

from dataset.publish.screens import EMAIL, PHONE, find_contacts, has_credentials


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@example.com/a.jpg",
        "https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=AWS4&X-Amz-Signature=9f",
        "https://bucket.s3.amazonaws.com/a.jpg?AWSAccessKeyId=AK&Expires=1&Signature=x",
        "https://storage.googleapis.com/b/a.jpg?X-Goog-Signature=1",
        "https://d1.cloudfront.net/a.jpg?Expires=1&Key-Pair-Id=K",
        "https://x.blob.core.windows.net/a.jpg?sv=2020&se=1&sig=abc",
        "https://example.com/a.jpg;jsessionid=0123",
        "https://example.com/a.jpg?access_token=0123",
        "https://example.com/a.jpg#access_token=0123&token_type=bearer",
        *(
            f"https://example.com/a.jpg?w=100&{name}=0123"
            for name in (
                "auth",
                "Authorization",
                "authkey",
                "auth-key",
                "auth_code",
                "jwt",
                "bearer",
                "oauth_signature",
                "api-key",
                "apikey",
                "api_key",
                "API.KEY",
                "app_key",
                "access-key",
                "AccessKeyId",
                "secret",
                "secret_key",
                "client-secret",
                "token",
                "access-token",
                "accesstoken",
                "auth-token",
                "refresh_token",
                "session-token",
                "id_token",
                "password",
                "passwd",
                "pwd",
                "sessionid",
                "session-id",
                "session_id",
                "sessid",
                "PHPSESSID",
                "ASP.NET_SessionId",
            )
        ),
        "https://example.com/a.jpg?w=100&amp;jwt=0123",
        "https://maps.googleapis.com/maps/api/staticmap?key=AIzaSyA0123456789012345678901234567890",
    ],
)
def test_a_url_that_lets_somebody_in_has_credentials(url: str) -> None:
    assert has_credentials(pa.chunked_array([[url]])).tolist() == [True]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/@alice/a.jpg",
        "https://example.com/a.jpg?design=1&w=100",
        "https://example.com/signature=x.jpg",
        "https://example.com/a.jpg?tokens=3&v=2",
        "https://example.com/a.jpg?q=user@example.com",
        *(
            f"https://example.com/a.jpg?w=100&{name}=0123"
            for name in (
                "author",
                "authors",
                "authority",
                "tokens",
                "tokenize",
                "keys",
                "key",
                "keyword",
                "session",
                "sid",
                "secretary",
                "apikeys",
                "passport",
                "design",
                "sigma",
                "jwts",
            )
        ),
    ],
)
def test_an_ordinary_url_has_none(url: str) -> None:
    assert has_credentials(pa.chunked_array([[url]])).tolist() == [False]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to jane.doe+x@mail.example.org today", EMAIL),
        ("JANE@EXAMPLE.COM", EMAIL),
        ("+49 30 1234567", PHONE),
        ("call (555) 123-4567", PHONE),
        ("555-123-4567", PHONE),
        ("Tel: 030/123 45 67", PHONE),
        ("me@example.com or +1 555 123 4567", EMAIL + PHONE),
        ("1920x1080 wallpaper", 0),
        ("photo 2021-05-06 12:30", 0),
        ("IMG 20210506123000", 0),
        ("follow @alice", 0),
        ("ISBN 978-3-16-148410-0", 0),
        ("", 0),
    ],
)
def test_contacts_are_found_and_numbers_of_other_kinds_are_not(text: str, found: int) -> None:
    assert find_contacts(pa.chunked_array([[text]])).tolist() == [found]
