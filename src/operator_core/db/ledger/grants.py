"""Units of work for grants: votes that people give in advance."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    Connection,
    Text,
    bindparam,
    func,
    insert,
    select,
    update,
)

from operator_core.actions.actors import normalised
from operator_core.actions.errors import Conflict, InvalidValue, NotFound
from operator_core.actions.types import Condition, Grant
from operator_core.db.ledger.rules import as_names
from operator_core.db.sql.arrays import listed
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import utcnow, written_now
from operator_core.db.sql.rows import GRANT_COLUMNS, Listing, decode_time, to_grant, to_listing
from operator_core.db.sql.tables import DECISIONS, GRANTS

__all__ = ["GrantRequest", "grant", "list_grants", "refutations", "revoke_grant"]

_G = GRANTS.c
_D = DECISIONS.c


class GrantRequest(NamedTuple):
    """The values of a new grant."""

    by: str
    by_type: str
    roles: tuple[str, ...]
    action_name: str
    conditions: tuple[Condition, ...]
    max_uses: int
    valid_until: datetime
    reason: str


_INSERT = insert(GRANTS).returning(*GRANT_COLUMNS)
_ONE = select(*GRANT_COLUMNS).where(_G.id == bindparam("grant", type_=BigInteger()))
_REVOKE = (
    update(GRANTS)
    .where(_G.id == bindparam("grant", type_=BigInteger()), _G.revoked_at.is_(None))
    .values(
        revoked_at=utcnow(),
        revoked_by=bindparam("by", type_=Text()),
        revoke_reason=bindparam("why", type_=Text()),
    )
    .returning(*GRANT_COLUMNS)
)
_ALL = select(*GRANT_COLUMNS).order_by(_G.id)
_OPEN = _ALL.where(_G.revoked_at.is_(None), _G.valid_until > written_now())
_USES = (
    select(_D.grant_id, func.count())
    .where(listed(_D.grant_id, "ids"), _D.grant_id.is_not(None))
    .group_by(_D.grant_id)
)
_NOW = select(written_now())

# What a condition refutes: it holds, and can be evaluated, only if none of these conditions matches as a whole.
_OPPOSITE: Final = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}


def refutations(conditions: Sequence[Condition]) -> str:
    """For each condition, conditions that match as a whole unless it holds: as the JSON text that the database stores.

    A condition that can't be evaluated matches, as does its opposite. For a rule, that is the safe side; a grant is
    consent, so there it must hold. Raises `InvalidValue` for ``exists``, which has no opposite that can be evaluated.
    """
    return to_json([_opposite(place, each) for place, each in enumerate(conditions)]).decode()


def _opposite(place: int, condition: Condition) -> list[dict[str, Any]]:
    if condition.op == "exists":
        raise InvalidValue(f"conditions[{place}].op", "must not be exists in a grant")
    if condition.op == "in":
        values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
        return [Condition(path=condition.path, op="ne", value=each).as_json() for each in values]
    if condition.op == "prefix":
        # No text is less than the empty one: this matches only what is no text.
        return [Condition(path=condition.path, op="lt", value="").as_json()]
    opposite: Any = _OPPOSITE[condition.op]
    return [Condition(path=condition.path, op=opposite, value=condition.value).as_json()]


def grant(conn: Connection, request: GrantRequest) -> Grant:
    """Writes a grant; raises `InvalidValue` for a time in the past."""
    if request.valid_until <= decode_time(conn.scalar(_NOW)):
        raise InvalidValue("valid_until", "must be in the future")
    values = {
        "action_name": request.action_name,
        "conditions": to_json([each.as_json() for each in request.conditions]).decode(),
        "refutations": refutations(request.conditions),
        "roles": as_names(request.roles),
        "max_uses": request.max_uses,
        "valid_until": request.valid_until,
        "granted_by": request.by,
        "grantor_key": normalised(request.by),
        "grantor_type": request.by_type,
        "reason": request.reason,
    }
    return to_grant(conn.execute(_INSERT, values).one())


def revoke_grant(conn: Connection, grant_id: int, *, by: str, reason: str) -> Grant:
    """Revokes a grant; what it was used for stays. Raises `NotFound`, and `Conflict` if it is revoked."""
    rows = fetch(conn, _REVOKE, {"grant": grant_id, "by": by, "why": reason})
    if rows:
        return _used(conn, Listing([to_grant(rows[0])]))[0]
    if not fetch(conn, _ONE, {"grant": grant_id}):
        raise NotFound("grant", grant_id)
    raise Conflict("grant", grant_id, "revoked")


def list_grants(conn: Connection, *, active: bool) -> Listing[Grant]:
    """All grants with their uses, or those that are neither revoked nor over, oldest first."""
    return _used(conn, to_listing(fetch(conn, _OPEN if active else _ALL, {}), to_grant))


def _used(conn: Connection, grants: Listing[Grant]) -> Listing[Grant]:
    uses = dict(map(tuple, fetch(conn, _USES, {"ids": [each.id for each in grants]})))
    found: Listing[Grant] = Listing(
        Grant.from_stored({**each.__dict__, "uses": uses.get(each.id, 0)}) for each in grants
    )
    found.corrupt = grants.corrupt
    return found
