"""A small completions server over a model, with faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from transformers import PreTrainedModel

from verdictscope.rollouts import Sampling
from verdictscope.rollouts.engines.huggingface import decode
from verdictscope.rollouts.engines.requests import Request


@dataclass
class Little:
    """The server's state.

    Attributes:
        model: what draws.
        faults: what happens to the next requests, one each, ``None`` for nothing.
        always: what happens to every request.
        seen: the bodies it got.
        busy: most requests under way at a time.
    """

    model: PreTrainedModel
    faults: list[str | None] = field(default_factory=list)
    always: str | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    busy: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer as vLLM gives one; the noise is keyed by the seed that was sent."""
        sampling = Sampling(body["temperature"], body["top_p"], body["max_tokens"], 0)
        asked = [Request(str(body["seed"]), tuple(body["prompt"]))]
        with self.lock:  # the model's mode is switched and switched back
            (done,), *_ = decode(self.model, asked, sampling, frozenset(body["stop_token_ids"]), 1)
        choice = {"index": 0, "text": "…", "finish_reason": done.finish, "token_ids": list(done.ids)}
        return {"object": "text_completion", "choices": [{**choice, "prompt_token_ids": body["prompt"]}]}


def spoiled(answer: dict[str, Any], fault: str) -> dict[str, Any]:
    """An answer with something wrong in it."""
    choice = answer["choices"][0]
    changes = {
        "no ids": {"token_ids": None},
        "strange ids": {"token_ids": [1, -4]},
        "too many": {"token_ids": [1] * 999},
        "other prompt": {"prompt_token_ids": [1, *choice["prompt_token_ids"]]},
        "aborted": {"finish_reason": "abort"},
    }
    return {"choices": []} if fault == "no choices" else {"choices": [{**choice, **changes[fault]}]}


@contextmanager
def serving(little: Little) -> Iterator[str]:
    """The server's address while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, code: int, data: bytes, promised: int | None = None) -> None:
            with little.lock:  # before the client can know that it is answered
                little.now -= self.command == "POST"
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(promised or len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.reply(200, json.dumps({"data": [{"id": "the-model"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with little.lock:
                little.seen.append(body)
                little.now += 1
                little.busy = max(little.busy, little.now)
                fault = little.always or (little.faults.pop(0) if little.faults else None)
            self.answer(body, fault)

        def answer(self, body: dict[str, Any], fault: str | None) -> None:
            if fault in ("500", "503", "429", "400", "404"):
                self.reply(int(fault), json.dumps({"error": {"message": f"no luck\ntoday ({fault})"}}).encode())
                return
            if fault == "slow":
                time.sleep(1.0)
            answer = little.complete(body)
            if fault == "no json":
                self.reply(200, b"<html>gateway</html>")
            elif fault == "cut short":
                data = json.dumps(answer).encode()
                self.reply(200, data[: len(data) // 2], len(data))
                self.close_connection = True
            elif fault in (None, "slow"):
                self.reply(200, json.dumps(answer).encode())
            else:
                self.reply(200, json.dumps(spoiled(answer, fault)).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
