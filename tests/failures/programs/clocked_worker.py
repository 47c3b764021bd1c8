"""A worker whose clock is set as it is told; answers each line of its input, a command, with a line of JSON."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from clocks import TAKE, Jump

from operator_core.actions.errors import LeaseLost, NotDue
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.base import SQLITE_NOW
from tests.failures.harness import PATIENCE, proposal

LEASE = timedelta(minutes=5)


class Clocked:
    def __init__(self, db: ActionDB, jump: Jump, name: str) -> None:
        self.db, self.jump, self.name = db, jump, name

    async def set(self, seconds: float) -> list[str]:
        """What this process and its database take for the present time afterwards."""
        self.jump(seconds)
        return [datetime.now(UTC).isoformat(), await self.db._units.read(ask_the_database)]

    async def claim(self, limit: int) -> list[tuple[str, Any]]:
        claims = await self.db.claim(self.name, limit=limit, lease=LEASE)
        return [(each.proposal.action_name, each.record.id) for each in claims]

    async def claim_by_own_clock(self, limit: int) -> list[tuple[str, Any]]:
        """The planted bug."""
        now = datetime.now(UTC)
        found = await self.db.list_proposals(status=ActionStatus.VALIDATED, limit=limit)
        due = [each for each in found if each.scheduled_at is None or each.scheduled_at <= now]
        due.sort(key=lambda each: each.scheduled_at or each.created_at or now)
        try:
            for each in due:
                await self.db.update_proposal_status(each.id, ActionStatus.EXECUTING)
        except NotDue as error:
            return [(type(error).__name__, None)]
        return [(each.action_name, None) for each in due]

    async def complete(self, record: int) -> str:
        try:
            await self.db.complete(record, {"by": self.name})
        except LeaseLost:
            return "LeaseLost"
        return "done"

    async def heartbeat(self, record: int) -> str:
        return (await self.db.heartbeat(record, LEASE)).isoformat()

    async def propose(self, action_name: str) -> int | None:
        status = ActionStatus.VALIDATED
        made = proposal(action_name=action_name, status=status)
        return (await self.db.create_proposal(made)).id

    async def recover(self) -> list[int | None]:
        return [each.id for each in await self.db.recover_expired()]


def ask_the_database(conn: Any) -> str:
    sqlite = conn.dialect.name == "sqlite"
    now = SQLITE_NOW if sqlite else "clock_timestamp() AT TIME ZONE 'UTC'"
    return f"{conn.exec_driver_sql(f'SELECT {now}').scalar()}+00:00"


async def main(place: str, jump: Jump, name: str) -> None:
    async with ActionDB(place, actor=name, busy_timeout=PATIENCE) as db:
        worker = Clocked(db, jump, name)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = json.loads(line)
            print(json.dumps(await getattr(worker, command)(*arguments)), flush=True)


if __name__ == "__main__":
    place, clock, name = sys.argv[1:]
    asyncio.run(main(place, TAKE[clock](), name))
