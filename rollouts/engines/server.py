"""A client of servers with token ids in and out: vLLM's OpenAI-compatible completions with ``return_token_ids``.

Text is never sent nor read: a server that answers with text alone is refused, because tokenising it again gives
other ids than the model wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any, cast

import httpx

from verdictscope.errors import InputError, reason
from verdictscope.rollouts.engines.noise import rollout_keys
from verdictscope.rollouts.engines.requests import Request, Written
from verdictscope.rollouts.rollout import Finish, Sampling

_LONGEST_PAUSE = 30.0


class _Passing(Exception):
    """A failure that may be over at the next attempt."""


@dataclass(frozen=True)
class Server:
    """Draws on a server that serves ``POST /v1/completions`` with token ids as prompt and ``return_token_ids``
    (vLLM does).

    Every rollout has a seed of its own, made from the sampling's seed and the rollout's id. Whether the server's
    draws depend on what else it serves at the time is the server's affair.

    Attributes:
        url: address of the server, with or without ``/v1``.
        model: the name it serves the model under; by default the first one it lists.
        concurrency: requests under way at a time.
        timeout: seconds to wait for one rollout.
        retries: further attempts after a connection that failed, a time-out, an answer cut short, or HTTP 429 or 5xx.
        pause: seconds before the first further attempt; each later one waits twice as long, 30 s at most.
        api_key: sent as a bearer token, where the server wants one.

    Example:
        >>> Server("http://localhost:8000", model="qwen3").describe()
        {'served_model': 'qwen3'}
    """

    url: str
    model: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    retries: int = 5
    pause: float = 1.0
    api_key: str | None = None
    name = "server"
    independent = True

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"server address {self.url!r} is no URL: give one like http://localhost:8000")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise InputError("a server needs concurrency of at least 1, retries of at least 0, and a positive timeout")

    def describe(self) -> dict[str, Any]:
        """The served model's name; the address may change between two calls."""
        return {"served_model": self.model}

    def wave(self, sizes: Sequence[int]) -> int:
        """All of them: what a server draws side by side is not ours to say."""
        return len(sizes)

    def write(self, requests: Sequence[Request], sampling: Sampling, eos: frozenset[int]) -> Iterator[list[Written]]:
        """Draw all requests, as many at a time as :attr:`concurrency` says.

        Raises:
            InputError: the server cannot be reached, refuses a request, or returns no token ids.
        """
        if not requests:
            return
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        with (
            httpx.Client(base_url=self._root(), timeout=self.timeout, headers=headers, limits=limits) as client,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            stop = Event()
            body = self._body(client, sampling, eos)
            seeds = [key & 0x7FFFFFFF for key in rollout_keys(sampling.seed, [r.id for r in requests])]
            left = iter(range(len(requests)))
            under_way: set[Future[Written]] = set()
            try:
                while True:
                    for k in left:
                        own = {**body, "prompt": list(requests[k].prompt), "seed": seeds[k]}
                        under_way.add(pool.submit(self._draw, client, stop, k, requests[k].id, own))
                        if len(under_way) >= self.concurrency:
                            break
                    if not under_way:
                        return
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    yield [future.result() for future in done if future.exception() is None]
                    for future in done:
                        future.result()  # an error, raised once what came with it is safe
            finally:  # an error, or nobody wants the rest: what has not begun need not, nor what waits to try again
                stop.set()
                for future in under_way:
                    future.cancel()

    def _root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1") + "/v1/"

    def _body(self, client: httpx.Client, sampling: Sampling, eos: frozenset[int]) -> dict[str, Any]:
        return {
            "model": self.model or self._first_model(client),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # the checkpoint's own defaults would act on what is not named
            "top_k": -1,
            "repetition_penalty": 1.0,
            "n": 1,
            "stop_token_ids": sorted(eos),
            "skip_special_tokens": False,
            "return_token_ids": True,
        }

    def _first_model(self, client: httpx.Client) -> str:
        found = self._tried("its list of models", lambda: self._answer(client.get("models")), Event())
        try:
            return str(found["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise InputError(f"server {self.url} lists no model: name one") from None

    def _draw(self, client: httpx.Client, stop: Event, index: int, rollout: str, body: dict[str, Any]) -> Written:
        def attempt() -> Written:
            answer = self._answer(client.post("completions", json=body))
            return self._read(answer, index, rollout, body)

        return cast(Written, self._tried(f"rollout {rollout}", attempt, stop))

    def _tried(self, what: str, attempt: Callable[[], Any], stop: Event) -> Any:
        """The result of an attempt, made again while it fails in a way that may pass."""
        for turn in range(self.retries + 1):
            try:
                return attempt()
            except (httpx.TransportError, _Passing) as error:
                why = reason(error)
            if turn < self.retries and stop.wait(min(self.pause * 2**turn, _LONGEST_PAUSE)):
                break
        raise InputError(
            f"server {self.url} gave up on {what} in {self.retries + 1} attempts ({why}): see that it runs, or "
            "raise timeout or retries; a call with a path goes on from what it has"
        )

    def _answer(self, response: httpx.Response) -> Any:
        """The JSON of an answer."""
        code = response.status_code
        if code in (408, 425, 429) or code >= 500:
            raise _Passing(f"HTTP {code}: {_error_text(response)}")
        if code != 200:
            why = _error_text(response)
            raise InputError(f"server {self.url} refuses (HTTP {code}: {why}): check address, model and key")
        try:
            return response.json()
        except ValueError:
            raise _Passing("its answer is no JSON") from None

    def _read(self, answer: Any, index: int, rollout: str, body: dict[str, Any]) -> Written:
        """The tokens of an answer."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise _Passing("its answer holds no completion")
        choice = choices[0]
        ids, shown, finish = choice.get("token_ids"), choice.get("prompt_token_ids"), choice.get("finish_reason")
        if ids is None:
            raise InputError(
                f"server {self.url} returns text without token ids, and tokenising text again gives other ids: use one "
                "that knows return_token_ids (a recent vLLM)"
            )
        if not _are_ids(ids) or len(ids) > body["max_tokens"]:
            raise _Passing("its token ids make no sense")
        if shown is not None and shown != body["prompt"]:
            raise InputError(
                f"server {self.url} read another prompt than it was sent for rollout {rollout} ({len(shown)} tokens "
                f"against {len(body['prompt'])}): serve it without adding or cutting tokens"
            )
        if finish not in ("stop", "length"):
            raise _Passing(f"it ended a completion with {finish!r}")
        return Written(index, tuple(ids), cast(Finish, finish))


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids)


def _error_text(response: httpx.Response) -> str:
    """What a server says of an error, in one short line."""
    text: Any = response.text
    with suppress(ValueError):  # not JSON: its text as it stands
        found = response.json()
        inner = found.get("error", found) if isinstance(found, dict) else found
        text = inner.get("message", inner) if isinstance(inner, dict) else inner
    return " ".join(str(text).split())[:120] or "no reason given"
