"""
Mints, parses, hashes and verifies API keys. Its names are public through `keylatch`.
"""

from typing import Any, SupportsIndex, final

__all__ = ["Engine", "Hasher", "Limiter", "Row", "SecretRing", "Sighting", "Sightings", "Token", "TokenFinder", "TokenHeaders", "mask", "mask_bytes", "mint", "parse", "scan_files"]

@final
class Engine:
    """
    The request path: from raw headers to the key, out of cached rows.

    Moments are microseconds: ``now`` since 1970, the system's clock if None; ticks since the engine
    was made, by a clock that nobody sets back.

    Args:
        ring: The server secrets.
        prefixes: Of the tokens that are accepted.
        capacity: How many keys the cache holds.
        max_staleness: Ticks for which cached rows count after the feed was heard.
        unsealed_lookups: How many tokens a second without a right seal may be looked up.
        imported: Whether tokens of other formats may be keys.

    Raises:
        ValueError: A prefix is outside its format.
        OSError: The operating system gave no random bytes.
    """
    def __new__(cls, /, ring: SecretRing, *, prefixes: "list[str]", capacity: SupportsIndex, max_staleness: SupportsIndex, unsealed_lookups: SupportsIndex, imported: bool = False) -> Engine: ...
    def __reduce__(self, /) -> "str": ...
    def __repr__(self, /) -> str: ...
    def admits(self, /, token: Token) -> bool:
        """
        Tells whether a token that is not known may cost the database a lookup: its seal is right,
        or there is something left for those whose seal is not.
        """
    def cached(self, /, token: Token) -> Row | None:
        """
        The cached row of a key id, if it counts.
        """
    def candidates(self, /, token: Token) -> list[Token]:
        """
        The names that a token of another format may have, a token for each server secret, the
        active one first.
        """
    def check(self, /, sources: TokenHeaders, headers: "list[tuple[bytes, bytes]]", required: "frozenset[str] | None" = None, now: SupportsIndex | None = None, query: bytes | None = None, counted: bool = True) -> Any:
        """
        Takes the token out of a request and tells what it opens.

        Args:
            sources: What may carry it.
            headers: Raw ASGI headers, ``scope["headers"]``: pairs of bytes.
            required: The scopes that are needed, all of them; None for no scopes.
            now: The time.
            query: The raw query string, ``scope["query_string"]``, if the token may stand there.
            counted: Whether this is a use, and not another look at one that lasts.

        Returns:
            The APIKey; or the Token, if the database has to be asked.

        Raises:
            AuthenticationError: The request may not pass.
            TypeError: The headers are not pairs of bytes, or the query string is no bytes.
        """
    def check_token(self, /, token: Token, required: "frozenset[str] | None" = None, now: SupportsIndex | None = None) -> Any:
        """
        The same for a token at hand.
        """
    def claims(self, /, sources: TokenHeaders, headers: "list[tuple[bytes, bytes]]", query: bytes | None = None) -> bool | None:
        """
        Tells whether a request carries what only a key of this collection can be meant with.

        Args:
            sources: What may carry it.
            headers: As ``check`` takes them.
            query: As ``check`` takes it.

        Returns:
            None if it carries nothing; False if nothing but ``Authorization: Bearer`` carries
            something that names no prefix of this collection, and may belong to another scheme.

        Raises:
            TypeError: The headers are not pairs of bytes, or the query string is no bytes.
        """
    def close_usage(self, /) -> None:
        """
        Has ``take_usage`` bring the uses that were counted until now, and none that come later.
        """
    def counts(self, /) -> "dict[str, int]":
        """
        What happened so far, by name.
        """
    def distrust(self, /) -> None:
        """
        No cached row counts until the feed is heard again.
        """
    def epoch(self, /, key_id: str) -> int:
        """
        The epoch of a key id: to be taken before the database is asked for it.
        """
    def evict(self, /, key_id: str) -> None:
        """
        Has a key be read anew: no row counts that was asked for before.
        """
    def flush(self, /) -> None:
        """
        Has every key be read anew.
        """
    def heard(self, /, ticks: SupportsIndex) -> None:
        """
        The feed has brought all that was changed until then, in ticks.
        """
    def judge(self, /, row: Row, token: Token, required: "frozenset[str] | None" = None, now: SupportsIndex | None = None) -> Any | None:
        """
        Tells what a token opens by a row.

        Returns:
            The APIKey, whose use is counted; None if the row was overtaken by a change.

        Raises:
            AuthenticationError: The request may not pass.
            InvalidHashError: The hash needs a server secret that is not in the ring.
        """
    def present(self, /, token: "str | Token") -> Token:
        """
        Reads a token as ``check`` does: of other formats, too, if these may be keys.

        Args:
            token: A ``str`` of any content, or a token that was read elsewhere.

        Raises:
            InvalidTokenError: It is no token, or a mistyped one.
            TypeError: It is neither.
        """
    def put_usage_back(self, /, usage: "list[tuple[str, int, int]]") -> None:
        """
        Puts uses back that could not be written.
        """
    def row(self, /, key_id: str, epoch: SupportsIndex, *, key: Any | None, stored: str, scopes: "frozenset[str]", expires_at: SupportsIndex | None, revoked: bool, imported: bool = False, keep: bool) -> Row:
        """
        Makes a row out of what the database said.

        Args:
            key_id: What it was asked for.
            epoch: From before it was asked.
            key: The APIKey; None if there is none.
            stored: Its stored hash.
            scopes: Its scopes.
            expires_at: When it expires.
            revoked: Whether it is revoked.
            imported: Whether its token is of another format: then its hash is never made anew.
            keep: Whether to put the row into the cache.

        Raises:
            InvalidHashError: The stored hash is malformed, or outside the policy.
        """
    def stretch(self, /, row: Row, token: Token) -> None:
        """
        Verifies a token against the slow hash of a row, and remembers it if it was right.

        Takes tens of milliseconds, without the GIL: call it in a thread.

        Raises:
            MemoryError: There is not enough memory.
        """
    def take_usage(self, /, most: SupportsIndex) -> list[tuple[str, int, int]]:
        """
        Takes uses out of the ledger, to be written to the database.

        Args:
            most: Of how many keys.

        Returns:
            Key id, count, and the moment of the last one, by key id.
        """
    def ticks(self, /) -> int:
        """
        The time, in ticks.
        """

@final
class Hasher:
    """
    Hashes tokens for storage, and verifies them.

    Args:
        ring: The active secret hashes; all of them verify.
        scheme: ``hmac-sha256`` for tokens that keylatch minted: with 256 random bits stretching
            adds nothing (NIST SP 800-63B-4 asks for it under 112 bits). ``argon2id`` for tokens
            that people chose or that come from elsewhere.
        memory_kib: Memory of argon2id in KiB, 7168 to 131072. The defaults are OWASP's.
        iterations: Passes of argon2id, 1 to 10.
        parallelism: Lanes of argon2id, 1 to 4.

    Raises:
        ConfigurationError: An unknown scheme, or a cost outside these bounds.
    """
    def __new__(cls, /, ring: SecretRing, *, scheme: "str" = "hmac-sha256", memory_kib: "int" = ..., iterations: "int" = ..., parallelism: "int" = ...) -> Hasher: ...
    def __reduce__(self, /) -> "str": ...
    def __repr__(self, /) -> str: ...
    def hash(self, /, token: "str | Token") -> str:
        """
        Makes the stored hash of a token, with a new random salt.

        Args:
            token: 1 to 4096 bytes of UTF-8, in any format.

        Returns:
            A PHC string of at most 255 characters for the database.

        Raises:
            InvalidTokenError: The token is empty, longer than 4096 bytes, or no Unicode text.
            OSError: The operating system gave no random bytes.
            MemoryError: There is not enough memory for argon2id.
        """
    def needs_rehash(self, /, stored: str) -> bool:
        """
        Tells whether a stored hash should be made anew, after its token verified: it is of
        another scheme, of other parameters, or under another secret than the active one.

        Args:
            stored: As for :meth:`verify`.

        Raises:
            InvalidHashError: The stored string is malformed or outside the policy.
        """
    def verify(self, /, token: "str | Token", stored: str) -> bool:
        """
        Tells whether a stored hash is the hash of this token, in constant time.

        Args:
            token: A ``str`` of any content.
            stored: What :meth:`hash` returned, of either scheme, or a plain argon2id string as
                argon2-cffi writes it.

        Raises:
            InvalidHashError: The stored string is malformed, of a cost outside the policy, or
                needs a server secret that is not in the ring. Found before anything is spent.
            MemoryError: There is not enough memory for argon2id.
        """

@final
class Limiter:
    """
    What keys have taken of their limits, in this process.
    """
    def __len__(self, /) -> int:
        """
        Of how many keys something is kept. What is over goes by and by.
        """
    def __new__(cls, /) -> Limiter: ...
    def __repr__(self, /) -> str: ...
    def take(self, /, key_id: str, requests: SupportsIndex, per: SupportsIndex, now: SupportsIndex | None = None) -> int:
        """
        Takes one request of a key. If there is none left it takes nothing.

        Args:
            key_id: The key, which has verified.
            requests: How many it may send at once, 1 or more.
            per: Nanoseconds in which it gets as many again.
            now: Microseconds since 1970; the limiter's own clock, that nobody sets back, if None.

        Returns:
            0, or nanoseconds to wait for the next one.
        """

@final
class Row:
    """
    What the database said of a key id, with the stored hash, which nothing shows.
    """
    def __reduce__(self, /) -> "str": ...
    def __repr__(self, /) -> str: ...
    @property
    def exists(self, /) -> bool:
        """
        Whether there is a key.
        """
    @property
    def needs_stretching(self, /) -> bool:
        """
        Whether ``Engine.stretch`` has to be called with the first token, in a thread.
        """
    def notice_outdated(self, /) -> str | None:
        """
        Returns its stored hash if it should be made anew, to whoever asks first, else None.
        """

@final
class SecretRing:
    """
    The server secrets of a deployment, the active one first.

    The active secret mints and hashes; the others only verify. Each secret has 32 to 64
    bytes, at least 16 of them different: fewer are no random ones.
    Memory is wiped when the ring goes; `repr` shows the kids only; it cannot be pickled.

    Args:
        text: ``kid:base64url``, several of them separated by commas. A kid is 1 to 8 of ``[a-z0-9]``.

    Raises:
        ConfigurationError: The text is no ring; the message says what to do.
    """
    def __new__(cls, /, text: str) -> SecretRing: ...
    def __reduce__(self, /) -> "str": ...
    def __repr__(self, /) -> str: ...
    @staticmethod
    def from_env(name: "str" = "KEYLATCH_SECRET") -> SecretRing:
        """
        Reads the ring from the environment.

        Args:
            name: The variable's name: up to 64 letters, digits and underscores.

        Raises:
            ConfigurationError: This is no such name, or the variable is not set, or is no ring.
        """
    @staticmethod
    def generate(kid: "str" = "k1") -> str:
        """
        Makes a new server secret from 32 random bytes of the operating system.

        Args:
            kid: Its name, 1 to 8 of ``[a-z0-9]``.

        Returns:
            The text to put into the environment. Nothing else keeps it.

        Raises:
            ConfigurationError: The kid is no kid.
            OSError: The operating system gave no random bytes.
        """
    @property
    def kids(self, /) -> list[str]:
        """
        The kids, the active one first.
        """

@final
class Sighting:
    """
    A place where a token stands, or what looks like one. Shows nothing of its secret.
    """
    def __reduce__(self, /) -> "str": ...
    def __repr__(self, /) -> str: ...
    @property
    def column(self, /) -> int:
        """
        The character of the line, counted from 1; 0 if it stands in the name of a file.
        """
    @property
    def fingerprint(self, /) -> str:
        """
        The SHA-256 of the whole text, in hexadecimal digits: it tells the same token elsewhere,
        and nothing of its 256 random bits.
        """
    @property
    def genuine(self, /) -> bool:
        """
        Whether its checksum is right, so that it is a token, ours or not.
        """
    @property
    def key_id(self, /) -> str:
        """
        The key id that stands there.
        """
    @property
    def line(self, /) -> int:
        """
        The line, counted from 1; 0 if it stands in the name of a file.
        """
    @property
    def offset(self, /) -> int:
        """
        Where it begins, in bytes.
        """
    @property
    def prefix(self, /) -> str:
        """
        What stands before the key id, such as ``acme_live``.
        """
    def token(self, /) -> Token | None:
        """
        The token, if its checksum is right.
        """
    @property
    def wide(self, /) -> bool:
        """
        Whether it stands in UTF-16.
        """

@final
class Sightings:
    """
    What came of a search in files.
    """
    @property
    def bytes(self, /) -> int:
        """
        How many bytes were read.
        """
    @property
    def files(self, /) -> int:
        """
        How many files were looked at.
        """
    @property
    def found(self, /) -> list[tuple[str, Sighting]]:
        """
        Paths of files, and what stands in them or in their names.
        """
    @property
    def repositories(self, /) -> list[str]:
        """
        Paths of directories that hold the objects of a git repository, and of ``.git`` files.
        """
    @property
    def unread(self, /) -> list[tuple[str, str]]:
        """
        Paths of what could not be read, and why.
        """

@final
class Token:
    """
    A whole token, well-formed and with a right checksum, that no ``repr``, log or traceback
    shows. Made by :func:`parse`; a collection with imported tokens makes it of other formats, too,
    whose prefix is empty. Whether it opens anything is for ``APIKeys.verify`` to say.
    """
    def __reduce__(self, /) -> "str": ...
    def __repr__(self, /) -> str: ...
    @property
    def key_id(self, /) -> str:
        """
        The key's public name: 16 characters that may be logged.
        """
    @staticmethod
    def mint(prefix: str, ring: SecretRing) -> Token:
        """
        Makes a new token, as :func:`mint` does, without ever showing it.

        Args:
            prefix: 1 to 24 characters such as ``acme_live``.
            ring: Its active secret seals the token.

        Raises:
            ValueError: The prefix is outside its format.
            OSError: The operating system gave no random bytes.
        """
    @property
    def prefix(self, /) -> str:
        """
        The prefix, such as ``acme_live``; empty for a token of another format.
        """
    def reveal(self, /) -> str:
        """
        The token itself, to hand to the client. From here on it is a plain ``str``: what becomes
        of it is the caller's care.
        """
    def sealed_by(self, /, ring: SecretRing) -> str | None:
        """
        Which server secret sealed this token.

        Args:
            ring: The secrets to try.

        Returns:
            Its kid; None if none of the ring did, so that the token was imported, forged, or
            minted under a secret that has left the ring.
        """

@final
class TokenFinder:
    """
    Finds tokens in bytes that come piece by piece.

    Args:
        prefixes: Only tokens of these; of any, if there is none.
        look_alikes: Whether to find what has a token's shape and a wrong checksum, too.

    Raises:
        ValueError: A prefix is outside its format.
    """
    def __new__(cls, /, *, prefixes: "list[str]", look_alikes: "bool") -> TokenFinder: ...
    def end(self, /) -> list[Sighting]:
        """
        Returns what is left, and begins anew.
        """
    def feed(self, /, data: bytes) -> list[Sighting]:
        """
        Takes the next bytes, and returns what was found so far and not yet returned.
        """

@final
class TokenHeaders:
    """
    What of a request carries the token, and how it is taken from there.

    Args:
        bearer: Whether ``Authorization: Bearer`` may.
        names: Other header names, at most 8; their whole value is the token.
        cookie: The name of a cookie, out of all ``Cookie`` headers.
        query: The name of a parameter of the query string.

    Raises:
        ConfigurationError: Nothing at all, too many headers, one twice, or a name that is none.
    """
    def __new__(cls, /, *, bearer: bool = True, names: "list[str]" = ..., cookie: "str | None" = None, query: "str | None" = None) -> TokenHeaders: ...
    def extract(self, /, headers: "list[tuple[bytes, bytes]]", query: bytes | None = None) -> Token:
        """
        Takes the one token out of a request.

        Args:
            headers: Raw ASGI headers, ``scope["headers"]``: pairs of bytes.
            query: The raw query string, ``scope["query_string"]``.

        Raises:
            MissingKeyError: Nothing carries a token.
            InvalidKeyError: Something does, and it is not in the format.
            AmbiguousCredentialsError: A header stands twice, or two sources differ.
            TypeError: The headers are not pairs of bytes, or the query string is no bytes.
        """

def mask(text: str) -> str:
    """
    Masks the secret part of every token in a text, whole or cut: ``acme_live_<key id>_***``.

    Args:
        text: A ``str`` of any content.

    Returns:
        The same object, if there is nothing to mask.
    """

def mask_bytes(data: bytes) -> bytes:
    """
    The same for bytes.
    """

def mint(prefix: str, ring: SecretRing) -> str:
    """
    Makes a new token: 80 random bits of key id, 256 of secret, a seal and a checksum.

    Args:
        prefix: 1 to 24 characters such as ``acme_live``: letters and digits, beginning with a
            letter, with single underscores between words.
        ring: Its active secret seals the token.

    Returns:
        The token. Store only its hash (see :class:`Hasher`).

    Raises:
        ValueError: The prefix is outside its format.
        OSError: The operating system gave no random bytes.
    """

def parse(token: str) -> Token:
    """
    Reads a token. Needs no secret and no database.

    Args:
        token: A ``str`` of any content.

    Returns:
        Its parts; see ``.prefix``, ``.key_id`` and ``.sealed_by(ring)``.

    Raises:
        InvalidTokenError: It is not in the format, or its checksum is wrong.
    """

def scan_files(paths: "list[str]", *, prefixes: "list[str]", look_alikes: "bool", progress: Any) -> Sightings:
    """
    Finds tokens in files and in their names, in whole trees, on every core.

    Symbolic links are not followed, unless they are among the paths. Devices, sockets and pipes
    are passed over.

    Args:
        paths: Files and directories.
        prefixes: Only tokens of these; of any, if there is none.
        look_alikes: Whether to find what has a token's shape and a wrong checksum, too.
        progress: Is told now and then how many files and bytes were read; if it raises, the search
            ends with that.

    Raises:
        ValueError: A prefix is outside its format.
    """
