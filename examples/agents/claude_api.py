"""A server on this computer that plays Anthropic's Messages API with a scripted model, so that no provider is needed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

Model = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""Takes the messages of a request, each with content blocks, and returns the blocks of the answer."""


class ClaudeAPI:
    """Answers ``POST /v1/messages`` as a stream, as the model says."""

    def __init__(self, model: Model) -> None:
        self.model = model

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    def env(self, folder: Path) -> dict[str, str]:
        """The environment in which the program talks to nobody else, and keeps its files in a folder."""
        host, port = self.server.sockets[0].getsockname()
        return {
            "ANTHROPIC_BASE_URL": f"http://{host}:{port}",
            "ANTHROPIC_API_KEY": "none",
            "ANTHROPIC_AUTH_TOKEN": "",
            "CLAUDE_CODE_OAUTH_TOKEN": "",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "CLAUDE_CONFIG_DIR": str(folder / "claude"),
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "HOME": str(folder),
            "NO_PROXY": host,
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                _, _, length = head.partition("content-length:")
                body = await reader.readexactly(int(length.split()[0]) if length else 0)
                status, answer = "404 Not Found", b""
                if head.startswith(("post /v1/messages?", "post /v1/messages ")):
                    history = map(_in_blocks, json.loads(body)["messages"])
                    spoken = [each for each in history if each["role"] != "system"]
                    status, answer = "200 OK", _events(self.model(spoken))
                kind = f"content-type: text/event-stream\r\ncontent-length: {len(answer)}"
                writer.write(f"HTTP/1.1 {status}\r\n{kind}\r\n\r\n".encode() + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the program has gone
        finally:
            writer.close()


def _in_blocks(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": blocks}


def _events(blocks: list[dict[str, Any]]) -> bytes:
    """A message as server-sent events."""
    calls = any(block["type"] == "tool_use" for block in blocks)
    usage = {"input_tokens": 1, "output_tokens": 1}
    # The program takes answers with one id for parts of one answer.
    message_id = f"msg_{uuid4().hex}"
    message = {"id": message_id, "type": "message", "role": "assistant", "model": "scripted"}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": [], "usage": usage}}
    ]
    for index, block in enumerate(blocks):
        if block["type"] == "tool_use":
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        else:
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        events += [
            {"type": "content_block_start", "index": index, "content_block": empty},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    reason = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    events += [{"type": "message_delta", "delta": reason, "usage": usage}, {"type": "message_stop"}]
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
