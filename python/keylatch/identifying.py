"""Tells whose a token is that was found somewhere: what is asked when one has leaked.

Counts no use, and opens nothing. Knows no web framework and no database.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keylatch._native import Token, parse
from keylatch.errors import InvalidHashError, InvalidTokenError
from keylatch.importing import TokenImport
from keylatch.records import APIKey, KeyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What a token tells of itself.

    Attributes:
        key_id: The key id that it names, which anyone can write into a token.
        key: The key of that id, alive or dead; None if there is none.
        proven: Whether the token is that key's: the secret in it is right. If not, somebody who
            knows the key id made it, or a mistake did.
        sealed_by: The kid of the server secret that sealed it; None if none of the ring did.
    """

    key_id: str
    key: APIKey | None
    proven: bool
    sealed_by: str | None


class TokenIdentification(TokenImport):
    """The call that tells whose a token is."""

    async def identify(self, token: str | Token) -> Identified:
        """Tells whose a token is, alive or dead, of whatever prefix, without counting a use.

        For tokens that were found where they should not be. Revoke a key for one only if it is
        ``proven``, or anyone could have your keys revoked who knows their ids.

        Args:
            token: What was found.

        Raises:
            InvalidTokenError: It is no token, or mistyped.
            TypeError: It is neither a str nor a Token.
            UnavailableError: The database failed, or no core was free for argon2id.
        """
        try:
            names = self._names(token)
        finally:
            del token  # a traceback with locals must not show it
        await self._ready()
        for name in names:
            record = await self._store.load(name.key_id)
            if record is not None:
                return Identified(
                    key_id=name.key_id,
                    key=record.key,
                    proven=await self._proves(name, record),
                    sealed_by=name.sealed_by(self._ring),
                )
        sealed_by = names[0].sealed_by(self._ring)
        return Identified(key_id=names[0].key_id, key=None, proven=False, sealed_by=sealed_by)

    def _names(self, token: str | Token) -> Sequence[Token]:
        """The token under each id that its key may have: imported ones have one for each secret."""
        try:
            if isinstance(token, Token):
                own = token
            elif isinstance(token, str):
                own = parse(token)
            else:
                raise TypeError(f"a token must be a str, not {type(token).__name__}")
        except InvalidTokenError:
            if not self._accepts_imported:
                raise
            return self._engine.candidates(self._engine.present(token))
        finally:
            del token
        if not self._accepts_imported or own.prefix in self._prefixes:
            return [own]
        # One of another application, which may have been imported.
        return [own, *self._engine.candidates(self._engine.present(own.reveal()))]

    async def _proves(self, token: Token, record: KeyRecord) -> bool:
        verdicts: list[bool] = []

        def verify() -> None:
            verdicts.append(self._hasher.verify(token, record.hash))

        try:
            if record.hash.startswith("$argon2"):
                await self._loader.stretch(verify)
            else:
                verify()
        except InvalidHashError:
            # It needs a server secret that the ring lacks. A seal is only where the right one is.
            return token.sealed_by(self._ring) is not None
        return verdicts[0]
