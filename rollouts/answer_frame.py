"""What a chat template prints around an answer without thinking, and what it prints where the next turn begins.

Functionary names a recipient in front of an answer (``all``), others put it into tags. A template without an end token
leaves it to the model to go on with the user's next turn; from there on it is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from verdictscope.rollouts.discover import ending_texts, wraps
from verdictscope.rollouts.markers import TokenMatcher
from verdictscope.rollouts.renderings import AGAIN, MORE, PLAIN, QUESTION, REPLY, Renderings
from verdictscope.rollouts.selfcheck import state_of

_TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_LAST_TAG = re.compile(r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])$")


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """Texts of the template around an answer."""

    lead: str = ""
    trails: tuple[str, ...] = ()
    next_turn: str = ""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, *, ended: bool) -> AnswerFrame:
        """The frame of a tokenizer's chat template, found once; empty where there is none or it refuses plain turns."""
        known = _known.setdefault(tokenizer, {})
        key = (*state_of(tokenizer), ended)
        if key not in known:
            known[key] = cls._found(tokenizer, ended)
        return known[key]

    @classmethod
    def _found(cls, tokenizer: PreTrainedTokenizerBase, ended: bool) -> AnswerFrame:
        renderings = Renderings(tokenizer)
        header, prompt = renderings.header(0), renderings.prompt(0)
        if header is None:
            return cls()
        # the user's own end of turn may stand in front of it
        lead = header[header.rfind(prompt) + len(prompt) :].lstrip() if prompt and prompt in header else ""
        opener = _LAST_TAG.search(header.rstrip())
        closer = _TAG.match(renderings.text(0, [QUESTION, PLAIN]).split(REPLY)[-1].lstrip())
        trails = [closer.group()] if opener and closer and wraps(opener.group(), closer.group()) else []
        more = renderings.text(0, [QUESTION, PLAIN, AGAIN])
        between = more.split(REPLY)[-1].split(MORE)[0].rstrip() if MORE in more.split(REPLY)[-1] else ""
        return cls(lead, (*trails, *ending_texts(tokenizer, renderings)), "" if ended else between)

    def labelled(
        self, matcher: TokenMatcher, ids: Sequence[int], labels: list[str], n_prompt: int, thinks: bool
    ) -> list[str]:
        """Labels of the tokens ``ids``, those of the frame made ``template``."""
        out = list(labels)
        answer = [k for k in range(n_prompt, len(out)) if out[k] == "answer"]
        if not answer:
            return out
        stop = self._turn_stop(matcher, ids, answer)
        if stop <= answer[-1]:  # what stands behind the answer may be thinking again
            out[stop:] = ["template"] * (len(out) - stop)
        if thinks:
            return out
        begin = answer[0]
        size = self._lead_size(matcher, ids[begin:stop])
        out[begin : begin + size] = ["template"] * size
        last = stop
        while last > begin + size and matcher.blank(ids[last - 1]):
            last -= 1
        for at in range(last - 1, max(last - 64, begin + size - 1), -1):
            if any(matcher.spelled(text, ids, at, last) == last - at for text in self.trails):
                out[at:] = ["template"] * (len(out) - at)
                break
        return out

    def _turn_stop(self, matcher: TokenMatcher, ids: Sequence[int], answer: Sequence[int]) -> int:
        """Where a made-up next turn begins in the answer; its end where there is none."""
        stop = answer[-1] + 1
        if not self.next_turn.strip():
            return stop
        texts = [matcher.text(i) for i in ids[answer[0] : stop]]
        found = "".join(texts).find(self.next_turn)
        at = 0
        for k, text in enumerate(texts if found >= 0 else ()):
            if at >= found:
                return answer[0] + k
            at += len(text)
        return stop

    def _lead_size(self, matcher: TokenMatcher, ids: Sequence[int]) -> int:
        """Tokens that the lead takes where these begin with it, whitespace behind it included."""
        core = self.lead.strip()
        if not core:
            return 0
        text, size = "", 0
        while size < len(ids) and len(text.strip()) < len(core):
            text, size = text + matcher.text(ids[size]), size + 1
        if text.strip() != core:
            return 0
        gap = text[len(text.rstrip()) :]
        while size < len(ids) and matcher.blank(ids[size]):
            gap, size = gap + matcher.text(ids[size]), size + 1
        if size < len(ids):
            following = matcher.text(ids[size])
            gap += following[: len(following) - len(following.lstrip())]
        space = self.lead[len(self.lead.rstrip()) :]
        # "all" is a name of the template only where its line ends
        parted = not space or ("\n" in gap if "\n" in space else bool(gap))
        return size if parted or _LAST_TAG.search(core) else 0


_known: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[object, ...], AnswerFrame]] = WeakKeyDictionary()
