"""Which subscriptions a topic has: a trie of tokens, whose answers are kept."""

from __future__ import annotations

from typing import Generic, TypeVar

from jetstreamproto.services.events.model.topics import ONE, REST, SYSTEM

T = TypeVar("T")

_KEPT = 8192  # answers


class _Node(Generic[T]):
    __slots__ = ("here", "next", "rest")

    def __init__(self) -> None:
        self.next: dict[str, _Node[T]] = {}
        self.here: dict[T, None] = {}
        self.rest: dict[T, None] = {}

    @property
    def empty(self) -> bool:
        return not (self.next or self.here or self.rest)


class TopicIndex(Generic[T]):
    """Items by pattern. A match walks the topic's tokens, however many items there are.

    Answers are kept until something changes, and equal answers are the same tuple.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._answers: dict[str, tuple[T, ...]] = {}
        self._same: dict[tuple[T, ...], tuple[T, ...]] = {}

    def add(self, pattern: str, item: T) -> None:
        """Have `item` in the answers for topics that `pattern` matches."""
        node, leaf = self._root, self._leaf(pattern)
        for token in leaf[0]:
            node = node.next.setdefault(token, _Node())
        (node.rest if leaf[1] else node.here)[item] = None
        self._forget()

    def remove(self, pattern: str, item: T) -> None:
        """Undo `add`; raises KeyError if there was none."""
        tokens, rest = self._leaf(pattern)
        path = [self._root]
        for token in tokens:
            path.append(path[-1].next[token])
        del (path[-1].rest if rest else path[-1].here)[item]
        for parent, token in zip(reversed(path[:-1]), reversed(tokens), strict=True):
            if not parent.next[token].empty:
                break
            del parent.next[token]
        self._forget()

    def match(self, topic: str) -> tuple[T, ...]:
        """The items whose patterns match, each once."""
        answer = self._answers.get(topic)
        if answer is None:
            found = tuple(self._walk(topic.split(".")))
            answer = self._same.setdefault(found, found)
            if len(self._answers) >= _KEPT:
                self._forget()
            self._answers[topic] = answer
        return answer

    def _walk(self, tokens: list[str]) -> dict[T, None]:
        found: dict[T, None] = {}
        level = [self._root]
        for index, token in enumerate(tokens):
            wild = index > 0 or not token.startswith(SYSTEM)
            below = []
            for node in level:
                if wild:
                    found.update(node.rest)
                    if (starred := node.next.get(ONE)) is not None:
                        below.append(starred)
                if (named := node.next.get(token)) is not None:
                    below.append(named)
            level = below
        for node in level:
            found.update(node.here)
        return found

    def _leaf(self, pattern: str) -> tuple[list[str], bool]:
        tokens = pattern.split(".")
        return (tokens[:-1], True) if tokens[-1] == REST else (tokens, False)

    def _forget(self) -> None:
        self._answers.clear()
        self._same.clear()
