"""Plans for heads that differ only in values which the router passes on unread.

Nothing is said twice here: a template is made by planning a head with marks in the place of its values, the
ordinary way, and looking where the marks went. ``tests/properties/test_templates.py`` compares both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import count
from typing import Final, NamedTuple

from fastrouter.errors import MalformedMessageError
from fastrouter.policy.ids import REQUEST_ID, TRACEPARENT
from fastrouter.policy.plan import RequestPlan, ResponsePlan, plan_request, plan_response
from fastrouter.policy.rewrite import FORWARDED
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import ROUTING_NAMES, Target, seconds_of
from fastrouter.wire.fields import HOP_BY_HOP
from fastrouter.wire.framing import Framing, Kind
from fastrouter.wire.heads import STATED
from fastrouter.wire.template import Cut, Knife, Text, places_of, restore

_LENGTH: Final = b"content-length"
_TIMEOUT: Final = b"x-sandbox-timeout"
# A request's length is not 0 here: whether a request may be upgraded depends on that.
_REQUEST_NUMBERS: Final = {_LENGTH: rb"[1-9][0-9]{0,17}", _TIMEOUT: rb"[0-9]{1,9}(?:\.[0-9]{1,9})?"}
_RESPONSE_NUMBERS: Final = {_LENGTH: rb"[0-9]{1,18}"}
# As long as a number may be that is cut out, so that one of them is never a part of another.
_FIRST_NUMBER: Final = 700_000_000_000_000_007
# A head of more is planned each time: what a template costs to learn grows with them.
_MOST_VALUES: Final = 64
_LENGTH_KIND: Final = Kind.LENGTH


class RequestTemplates:
    """Makes templates of request heads."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        read = HOP_BY_HOP | ROUTING_NAMES | FORWARDED | STATED | rules.drops | {rules.credentials}
        self.cut = Knife(read - {b""}, _REQUEST_NUMBERS).cut

    def learn(self, cut: Cut, plan: RequestPlan) -> RequestTemplate | None:
        """Return the template of a head with this plan, None for one that is better planned each time."""
        key, values = cut
        lengths, timeouts = places_of(key, _LENGTH), places_of(key, _TIMEOUT)
        several = (len(places_of(key, name)) > 1 for name in (_LENGTH, _TIMEOUT, REQUEST_ID, TRACEPARENT))
        if not isinstance(plan.target, Target) or any(several):
            return None
        marks = Marks.of(cut, lengths + timeouts, plan.upstream_head + plan.trusted_head)
        if marks is None:
            return None
        try:
            # A mark is longer than any body may be: `fill` compares the real length.
            marked = plan_request(restore(key, marks.values), self._rules._replace(longest_body=0))
        except MalformedMessageError:
            return None  # its lengths agree with each other, not with a mark; or it is too long with marks
        template = RequestTemplate(marked, marks, key, self._rules)
        if template.names(marks.values) != (marked.request_id, marked.traceparent):
            return None  # of several spellings, the router reads one that is no value here
        return template if template.fill(b"", values) == plan else None


class RequestTemplate:
    """The plan of all heads with one key, but for their values."""

    __slots__ = (
        "_id",
        "_length",
        "_longest_body",
        "_longest_timeout",
        "_plan",
        "_timeout",
        "_trace",
        "_trusted",
        "_upstream",
        "numbers",
    )

    def __init__(self, marked: RequestPlan, marks: Marks, key: bytes, rules: Rules) -> None:
        self._plan = marked
        self._upstream = marks.find_in(marked.upstream_head)
        self._trusted = marks.find_in(marked.trusted_head) if marked.trusted_head else None
        self._length = _only(places_of(key, _LENGTH))
        self._timeout = _only(places_of(key, _TIMEOUT))
        self.numbers = frozenset(marks.numbers)
        self._trace = _only(places_of(key, TRACEPARENT))
        # Where requests get no id, the client's is a value like any other.
        self._id = _only(places_of(key, REQUEST_ID)) if rules.request_ids else None
        self._longest_timeout = rules.longest_timeout
        self._longest_body = rules.longest_body

    def narrow(self, values: list[bytes], places: list[int]) -> RequestTemplate | None:
        """Return the template of heads that differ in ``places`` only; ``fill`` takes what is there.

        The other values are those of the head with ``values``; None where that needs a closer look.
        """
        plan = self.fill(b"", values)
        if plan is None:
            return None
        narrowed = copy(self)
        narrowed._plan = plan.with_values(
            b"", b"", plan.body_length, plan.timeout, plan.request_id, plan.traceparent
        )
        narrowed._upstream = self._upstream.narrow(values, places)
        narrowed._trusted = self._trusted.narrow(values, places) if self._trusted else None
        narrowed._length = _where(self._length, places)
        narrowed._timeout = _where(self._timeout, places)
        narrowed._trace = _where(self._trace, places)
        narrowed._id = _where(self._id, places)
        return narrowed

    def names(self, values: list[bytes]) -> tuple[bytes, bytes]:
        """Return the id and the trace of one head."""
        plan = self._plan
        return (
            plan.request_id if self._id is None else values[self._id],
            plan.traceparent if self._trace is None else values[self._trace],
        )

    def fill(self, raw: bytes, values: Sequence[bytes]) -> RequestPlan | None:
        """Return the plan of one head; None where its values need a closer look."""
        plan = self._plan
        length, timeout = plan.body_length, plan.timeout
        if self._length is not None:
            length = int(values[self._length])
            if 0 < self._longest_body < length:
                return None
        if self._timeout is not None:
            timeout = seconds_of(values[self._timeout], self._longest_timeout)
            if timeout is None:
                return None
        request_id, traceparent = plan.request_id, plan.traceparent
        if self._id is not None:
            request_id = values[self._id]
        if self._trace is not None:
            traceparent = values[self._trace]
        trusted = b"" if self._trusted is None else self._trusted.fill(values)
        upstream = self._upstream.fill(values)
        return plan.with_values(upstream, trusted, length, timeout, request_id, traceparent)


class ResponseTemplates:
    """Makes templates of the heads of final responses."""

    def __init__(self) -> None:
        self.cut = Knife(HOP_BY_HOP | STATED, _RESPONSE_NUMBERS).cut

    def learn(self, cut: Cut, plan: ResponsePlan) -> ResponseTemplate | None:
        """Return the template of a head with this plan, None for one that is better planned each time."""
        key, values = cut
        lengths = places_of(key, _LENGTH)
        if len(lengths) > 1 or not plan.is_final:
            return None
        marks = Marks.of(cut, lengths, plan.kept_head)
        if marks is None:
            return None
        try:
            marked = plan_response(restore(key, marks.values))
        except MalformedMessageError:
            return None  # as above
        template = ResponseTemplate(marked, marks, lengths)
        return template if template.fill(plan.raw, values) == plan else None


class ResponseTemplate:
    """The plan of all heads with one key, but for their values."""

    __slots__ = ("_has_length", "_kept", "_length", "_plan", "numbers")

    def __init__(self, marked: ResponsePlan, marks: Marks, lengths: list[int]) -> None:
        self._plan = marked
        self.numbers = frozenset(marks.numbers)
        self._kept = marks.find_in(marked.kept_head)
        self._length = lengths[0] if lengths else None
        # 204 and 304 may tell a length, and have no body.
        self._has_length = self._length is not None and marked.length == int(marks.values[self._length])

    def narrow(self, values: list[bytes], places: list[int]) -> ResponseTemplate:
        """Return the template of heads that differ in ``places`` only: see ``RequestTemplate.narrow``."""
        narrowed = copy(self)
        narrowed._plan = self.fill(b"", values)
        narrowed._kept = self._kept.narrow(values, places)
        narrowed._length = _where(self._length, places)
        return narrowed

    def fill(self, raw: bytes, values: Sequence[bytes]) -> ResponsePlan:
        """Return the plan of one head."""
        plan = self._plan
        framing, length = plan.framing, plan.length
        if self._length is not None:
            framing = Framing(_LENGTH_KIND, int(values[self._length]))
            if self._has_length:
                length = framing.length
        kept_head = self._kept.fill(values)
        return ResponsePlan(
            plan.status,
            plan.keep_alive,
            framing,
            raw,
            kept_head,
            plan.is_final,
            length,
            plan.has_request_id,
        )


def _where(place: int | None, places: list[int]) -> int | None:
    return places.index(place) if place in places else None


def _only(places: list[int]) -> int | None:
    return places[0] if places else None


class Marks(NamedTuple):
    """What stands in the place of values while a head is planned: told from all else that comes of it."""

    stem: bytes
    values: list[bytes]
    numbers: list[int]
    """The places of those that have to be numbers."""

    @classmethod
    def of(cls, cut: Cut, numbers: list[int], written: bytes) -> Marks | None:
        """Return a mark for each value; None where there are too many.

        ``written`` is what became of the head itself: what the settings add to it is no mark either.
        """
        key, values = cut
        if len(values) > _MOST_VALUES:
            return None
        known = key + written
        stem = b"mark"
        while stem in known:
            stem += b"k"
        marks = [b"%b%d." % (stem, place) for place in range(len(values))]
        absent = (number for number in map(b"%d".__mod__, count(_FIRST_NUMBER)) if number not in known)
        for place in numbers:
            marks[place] = next(absent)
        return cls(stem, marks, numbers)

    def find_in(self, text: bytes) -> Text:
        """Return a text with places where the marks are."""
        for place in self.numbers:
            text = text.replace(self.values[place], b"%b%d." % (self.stem, place))
        return Text(text, self.stem)
