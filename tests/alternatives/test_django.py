"""djangorestframework-api-key's column of the README's table beside other libraries."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import django_site
import pytest
from claims import Claims, bearer, kind, mistyped, rows, speaks_of

shows = Claims("djangorestframework-api-key")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Path]:
    """The database of a site of Django's."""
    path = tmp_path_factory.mktemp("django") / "site.db"
    django_site.start(path)
    from django.db import connections

    yield path
    connections.close_all()


@pytest.fixture
def browser(site) -> Any:
    """What asks the site."""
    from django.test import Client

    return Client()


def make(name: str = "ci") -> tuple[Any, str, dict[str, str]]:
    """A key, its token, and the headers to send it in."""
    from rest_framework_api_key.models import APIKey as DjangoKey

    key, token = DjangoKey.objects.create_key(name=name)
    return key, token, {"authorization": f"Api-Key {token}"}


@shows("what is stored of a key", "SHA-512")
def test_django_stores_a_plain_hash(site):
    """Of the token alone."""
    key, token, _ = make()
    query = f"SELECT hashed_key FROM rest_framework_api_key_apikey WHERE prefix = '{key.prefix}'"
    assert rows(site, query) == [(f"sha512$${hashlib.sha512(token.encode()).hexdigest()}",)]


@shows("scopes", "no")
@shows("a key is replaced with an overlap", "no")
def test_django_has_no_scopes_and_no_rotation():
    """Its source has no word of either."""
    assert not speaks_of("rest_framework_api_key", "scope")
    assert not speaks_of("rest_framework_api_key", "rotat")


@shows("a key that was switched off can be switched on again", "no")
@shows("a key revoked in one process, in another that has used it", "refused")
def test_django_revokes(site, browser):
    """At once, since each request reads the key, and for good."""
    from django.core.exceptions import ValidationError

    key, _, headers = make()
    assert browser.get("/", headers=headers).status_code == 200
    with closing(sqlite3.connect(site)) as elsewhere, elsewhere:
        revoke = "UPDATE rest_framework_api_key_apikey SET revoked = 1 WHERE id = ?"
        elsewhere.execute(revoke, [key.pk])
    assert browser.get("/", headers=headers).status_code == 403
    again = type(key).objects.get(pk=key.pk)
    again.revoked = False
    with pytest.raises(ValidationError):
        again.save()


@shows("queries of a second request with a key", "1 read")
@shows("queries of a mistyped key", "1")
def test_django_reads_with_each_request(browser):
    """And writes nothing."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    _, token, headers = make()
    browser.get("/", headers=headers)
    for sent, status in ((token, 200), (mistyped(token), 403)):
        with CaptureQueriesContext(connection) as queries:
            answer = browser.get("/", headers={"authorization": f"Api-Key {sent}"})
        assert answer.status_code == status
        assert [kind(query["sql"]) for query in queries] == ["read"]


@shows("a header that stands twice, with two keys", "refused with 403")
def test_django_refuses_two_keys(site):
    """Django joins the two, and what comes of it is no key."""
    from django.core.handlers.asgi import ASGIRequest

    def status(*tokens: str) -> int:
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
        headers = bearer(*tokens, scheme="Api-Key")
        return django_site.items()(ASGIRequest(scope | {"headers": headers}, BytesIO())).status_code

    one, two = make("one")[1], make("two")[1]
    assert (status(one), status(two), status(one, two)) == (200, 200, 403)


@shows("routes that manage keys", "Django's admin, behind its login")
@shows("who changed a key is recorded", "if it was in Django's admin")
def test_django_has_its_admin(browser):
    """It asks for a login, and keeps what was changed there by whom."""
    from django.contrib.admin.models import LogEntry
    from django.contrib.admin.utils import quote
    from django.contrib.auth.models import User

    key, _, _ = make()
    url = f"/admin/rest_framework_api_key/apikey/{quote(key.pk)}/change/"
    form = {"name": "ci", "revoked": "on", "expiry_date_0": "", "expiry_date_1": ""}
    assert browser.post(url, form).url.startswith("/admin/login/")
    browser.force_login(User.objects.create_superuser("ops"))
    browser.post(url, form)
    entry = LogEntry.objects.get(object_id=key.pk)
    assert (entry.user.username, "Revoked" in entry.change_message) == ("ops", True)
    other, _, _ = make()
    other.revoked = True
    other.save()
    assert not LogEntry.objects.filter(object_id=other.pk)


@shows("limits the rate of a key", "no; Django REST framework limits addresses")
def test_django_limits_addresses(site):
    """Another key from the same address is over the limit, too."""
    from django.test import RequestFactory
    from rest_framework.throttling import AnonRateThrottle

    class OnceADay(AnonRateThrottle):
        rate = "1/day"

    view = django_site.items(OnceADay)
    for name, status in (("one", 200), ("two", 429)):
        assert view(RequestFactory().get("/", headers=make(name)[2])).status_code == status


def test_the_column_says_what_these_tests_show():
    """Of the version that is installed, and nothing else."""
    assert shows.cells == shows.column()
