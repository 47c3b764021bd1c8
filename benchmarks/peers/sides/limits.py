"""Measures the limits of the server and the driver: one row a commit with only its key as index, and an empty query."""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from benchmarks.peers.worker import Answer, Job, Work, serve, versions

_WARM = 30


async def _install(url: str, _: list[Job]) -> Answer:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("CREATE TABLE jobs (id bigserial PRIMARY KEY, job text NOT NULL)")
    finally:
        await conn.close()
    return versions("asyncpg")


def _limit(call: Callable[[Any, str], Awaitable[object]]) -> Work:
    async def work(url: str, jobs: list[Job]) -> Answer:
        conn = await asyncpg.connect(url)
        try:
            texts = [json.dumps(job) for job in jobs]
            for _ in range(_WARM):
                await call(conn, texts[0])
            start = time.perf_counter()
            for text in texts:
                await call(conn, text)
            return {"per_second": len(texts) / (time.perf_counter() - start)}
        finally:
            await conn.close()

    return work


if __name__ == "__main__":
    serve(
        {
            "install": _install,
            "insert": _limit(
                lambda conn, text: conn.fetchval(
                    "INSERT INTO jobs (job) VALUES ($1) RETURNING id", text
                )
            ),
            "select": _limit(lambda conn, text: conn.fetchval("SELECT 1")),
        }
    )
