"""A project of Django's with djangorestframework-api-key, as small as it gets.

Django is configured once in a process, so this is for one test file alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

urlpatterns: list[Any] = []


def start(database: Path) -> None:
    """Has its tables in that SQLite file, its admin, and a view that needs a key."""
    settings.configure(
        SECRET_KEY="of no use elsewhere",
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "rest_framework",
            "rest_framework_api_key",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
        # Django's own tables at once, without the steps of its history
        MIGRATION_MODULES=dict.fromkeys(("admin", "auth", "contenttypes", "sessions")),
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
        ],
        ALLOWED_HOSTS=["testserver"],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # a login at once
        LOGGING_CONFIG=None,  # that of the tests stays
        TIME_ZONE="UTC",
        USE_TZ=True,
        ROOT_URLCONF=__name__,
    )
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)

    from django.contrib import admin
    from django.urls import path

    urlpatterns.extend([path("", items()), path("admin/", admin.site.urls)])


def items(*throttles: type) -> Callable[..., Any]:
    """A view that needs a key."""
    from rest_framework.decorators import api_view, permission_classes, throttle_classes
    from rest_framework.response import Response
    from rest_framework_api_key.permissions import HasAPIKey

    @api_view()
    @throttle_classes(throttles)
    @permission_classes([HasAPIKey])
    def view(request: Any) -> Response:
        return Response("items")

    return view
