"""`World`: people, chats and what was said in them; a test acts for people here."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import msgspec

from ._checks import formatted, found
from .errors import ApiError, Json, bad

if TYPE_CHECKING:
    from collections.abc import Callable

    from .updates import Updates

KEPT_MESSAGES = 500
_KEPT_FILES = 200
_KEPT_QUERIES = 10_000
_KEPT_SENT = 200_000


class Person(msgspec.Struct, kw_only=True):
    """Somebody; `blocked` is her doing, `deactivated` Telegram's."""

    id: int
    first_name: str
    username: str
    blocked: bool = False
    deactivated: bool = False

    def user(self) -> Json:
        """Return her as a User."""
        return {
            "id": self.id,
            "is_bot": False,
            "first_name": self.first_name,
            "username": self.username,
            "language_code": "en",
        }


class Room(msgspec.Struct, kw_only=True):
    """A chat.

    Attributes:
        id: Of a private chat: the person's.
        type: ``private``, ``group`` or ``supergroup``.
        title: Of people's chats: the person's name.
        members: Status by person, the bot's own too.
        began: Whether the bot may write: the person did, or it is a member.
        messages: By id; the newest 500.
        last: The newest id.
        silent: Which messages came without a sound.
        topics: The ids of its topics, where it has any.
    """

    id: int
    type: str
    title: str
    members: dict[int, str]
    began: bool = False
    messages: dict[int, Json] = {}
    last: int = 0
    silent: dict[int, None] = {}
    topics: set[int] = set()

    def has(self, number: int) -> bool:
        """Whether a person, or the bot, is a member."""
        return self.members.get(number, "left") not in {"left", "kicked"}


class Photo(msgspec.Struct, frozen=True):
    """A file that was sent."""

    unique_id: str
    data: bytes
    mime: str
    width: int
    height: int

    @property
    def file_id(self) -> str:
        """By which a bot sends it again."""
        return f"photo-{self.unique_id}"

    def sizes(self) -> list[Json]:
        """Return it as a list of PhotoSize."""
        return [
            {
                "file_id": self.file_id,
                "file_unique_id": self.unique_id,
                "width": self.width,
                "height": self.height,
                "file_size": len(self.data),
            }
        ]


class Sent(msgspec.Struct, frozen=True):
    """A message of the bot, with its time: an independent checker counts these."""

    at: float
    chat: int
    message: int
    method: str
    text: str


class Query(msgspec.Struct):
    """A button that somebody pressed, and whether it was answered."""

    at: float
    person: int
    chat: int
    answered: bool = False


class World:
    """Three people, the private chat of each with the bot, and a group of all.

    Ids follow from the order of what happens, times from `now`: the same acts make the
    same world. What people do becomes updates, what the bot does becomes messages.

    Args:
        updates: Where updates go.
        now: Unix seconds.
        bot_id: The number of the bot's token.
    """

    def __init__(
        self, updates: Updates, now: Callable[[], float], *, bot_id: int
    ) -> None:
        self.updates = updates
        self.now = now
        self.me: Json = {
            "id": bot_id,
            "is_bot": True,
            "first_name": "Bot",
            "username": "stand_in_bot",
        }
        self.people = {
            number: Person(id=number, first_name=name, username=name.lower())
            for number, name in ((1001, "Ada"), (1002, "Ben"), (1003, "Cleo"))
        }
        self.rooms: dict[int, Room] = {}
        for person in self.people.values():
            self._open(person.id, "private", person.first_name, began=False)
        self.group = -5001
        self._open(self.group, "group", "Market talk", began=True)
        self.rooms[self.group].members[1001] = "creator"
        self.photos: dict[str, Photo] = {}
        self.queries: dict[str, Query] = {}
        self.sent: deque[Sent] = deque(maxlen=_KEPT_SENT)
        self.calls: Counter[str] = Counter()
        self.commands: list[Json] = []
        self.watchers: list[Callable[[int, str, Json], None]] = []
        self._numbers = itertools.count(1)

    def join(self, number: int, name: str) -> None:
        """Let somebody else be there, with a private chat of hers that has begun."""
        person = Person(id=number, first_name=name, username=name.lower())
        self.people[number] = person
        self._open(number, "private", name, began=True)

    def _open(self, chat: int, kind: str, title: str, *, began: bool) -> Room:
        people = [chat] if kind == "private" else list(self.people)
        members = dict.fromkeys([*people, self.me["id"]], "member")
        room = Room(id=chat, type=kind, title=title, members=members, began=began)
        self.rooms[chat] = room
        return room

    # --- what both sides need

    def room(self, chat: int | None) -> Room:
        """Return a chat that the bot may write to.

        Raises:
            ApiError: Unknown, blocked, deactivated or kicked.
        """
        room = self.rooms.get(chat or 0)
        if room is None:
            raise bad("chat not found")
        person = self.people.get(room.id)
        if person is not None:
            if person.deactivated:
                raise ApiError(403, "user is deactivated")
            if person.blocked:
                raise ApiError(403, "bot was blocked by the user")
            if not room.began:
                raise ApiError(403, "bot can't initiate conversation with a user")
        elif not room.has(self.me["id"]):
            kicked = room.members[self.me["id"]] == "kicked"
            what = "was kicked from" if kicked else "is not a member of"
            raise ApiError(403, f"bot {what} the {room.type} chat")
        return room

    def chat(self, room: Room) -> Json:
        """Return a chat as messages carry it."""
        chat: Json = {"id": room.id, "type": room.type}
        if room.type == "private":
            person = self.people[room.id]
            return chat | {"first_name": person.first_name, "username": person.username}
        forum = {"is_forum": True} if room.topics else {}
        return chat | {"title": room.title} | forum

    def user(self, number: int) -> Json:
        """Return a person or the bot as a User."""
        return self.me if number == self.me["id"] else self.people[number].user()

    def post(
        self,
        room: Room,
        sender: int,
        content: Json,
        *,
        topic: int = 0,
        silent: bool = False,
    ) -> Json:
        """Add a message to a chat and return it.

        Args:
            room: The chat.
            sender: Who writes.
            content: What.
            topic: The topic; 0: none, or General.
            silent: Whether it makes no sound.

        Raises:
            ApiError: The chat has no such topic.
        """
        if topic and topic not in room.topics:
            raise bad("message thread not found")
        thread = {"message_thread_id": topic, "is_topic_message": True}
        room.last += 1
        message: Json = {
            "message_id": room.last,
            "date": int(self.now()),
            "chat": self.chat(room),
            "from": self.user(sender),
            **(thread if topic else {}),
            **content,
        }
        room.messages[room.last] = message
        if silent:
            room.silent[room.last] = None
        _forget_oldest(room.messages, KEPT_MESSAGES)
        _forget_oldest(room.silent, KEPT_MESSAGES)
        self.show(room.id, "message", message)
        return message

    def show(self, chat: int, kind: str, content: Json) -> None:
        """Say what changed to who looks at a chat."""
        for watcher in list(self.watchers):
            watcher(chat, kind, content)

    def keep(self, data: bytes, mime: str, width: int, height: int) -> Photo:
        """Keep a picture; the same bytes have the same id."""
        unique_id = hashlib.sha256(data).hexdigest()[:16]
        photo = Photo(unique_id, data, mime, width, height)
        self.photos[photo.file_id] = photo
        _forget_oldest(self.photos, _KEPT_FILES)
        return photo

    # --- what people do

    def say(
        self, person: int, text: str, *, chat: int | None = None, topic: int = 0
    ) -> Json:
        """Let a person write, in her private chat or another; return the message.

        Raises:
            ApiError: The text is empty or has more than 4,096 UTF-16 units, or the chat
                has no such topic.
        """
        return self._from_person(person, chat, _written(text), topic)

    def edit(
        self, person: int, message: int, text: str, *, chat: int | None = None
    ) -> Json:
        """Let a person change the text of a message of hers; return the message.

        Raises:
            ApiError: She wrote none with this id, or the text is none.
        """
        room = self._of(person, chat)
        old = room.messages.get(message)
        if old is None or old["from"]["id"] != person:
            raise bad("message can't be edited")
        kept = {key: value for key, value in old.items() if key != "entities"}
        changed = kept | _written(text) | {"edit_date": int(self.now())}
        room.messages[message] = changed
        self.show(room.id, "message", changed)
        self._tell(room, changed, "edited_message")
        return changed

    def open_topic(self, person: int, name: str, *, chat: int | None = None) -> int:
        """Let a person add a topic to a chat; return its id."""
        room = self._of(person, chat)
        if room.type == "group":
            room.type = "supergroup"
        topic = room.last + 1
        room.topics.add(topic)
        created = {"name": name, "icon_color": 7_322_096}
        content: Json = {"forum_topic_created": created}
        self.post(room, person, content, topic=topic)
        return topic

    def locate(
        self, person: int, latitude: float, longitude: float, chat: int | None = None
    ) -> Json:
        """Let a person send a place."""
        place = {"latitude": latitude, "longitude": longitude}
        return self._from_person(person, chat, {"location": place})

    def press(
        self, person: int, message: int, row: int, column: int, chat: int | None = None
    ) -> str:
        """Let a person press an inline button; return the id of the callback query.

        Raises:
            ApiError: There is no such button, or it has no data.
        """
        room = self._of(person, chat)
        found_ = room.messages.get(message)
        try:
            keyboard = (found_ or {})["reply_markup"]["inline_keyboard"]
            data = keyboard[row][column]["callback_data"]
        except (LookupError, TypeError):
            raise bad("there is no such button") from None
        return self.push_press(person, data, room, found_)

    def push_press(
        self, person: int, data: str, room: Room, message: Json | None
    ) -> str:
        """Send a press with any data: a forged one, or one without its message."""
        number = str(next(self._numbers))
        self.queries[number] = Query(self.now(), person, room.id)
        _forget_oldest(self.queries, _KEPT_QUERIES)
        query: Json = {
            "id": number,
            "from": self.user(person),
            "chat_instance": str(room.id),
            "data": data,
        }
        if message is None:
            query["inline_message_id"] = f"inline-{number}"
        else:
            query["message"] = message
        self.updates.add("callback_query", query)
        return number

    def block(self, person: int, *, blocked: bool = True) -> None:
        """Let a person block the bot, or take that back."""
        who = self.people[person]
        if who.blocked != blocked:
            who.blocked = blocked
            old, new = ("member", "kicked") if blocked else ("kicked", "member")
            self._status(self.rooms[person], person, old, new)

    def set_status(self, room: int, by: int, status: str) -> None:
        """Let a person add the bot to a chat, or remove it.

        Args:
            room: The chat.
            by: Who does it.
            status: ``member``, ``left`` or ``kicked``.
        """
        chat, number = self.rooms[room], self.me["id"]
        old, chat.members[number] = chat.members.get(number, "left"), status
        self._status(chat, by, old, status)

    def _of(self, person: int, chat: int | None) -> Room:
        number = person if chat is None else chat
        room = self.rooms.get(number)
        if room is None or not room.has(person):
            raise bad("chat not found")
        return room

    def _from_person(
        self, person: int, chat: int | None, content: Json, topic: int = 0
    ) -> Json:
        room = self._of(person, chat)
        if room.type == "private":
            self.block(person, blocked=False)  # to write is to unblock
            room.began = True
        message = self.post(room, person, content, topic=topic)
        self._tell(room, message)
        return message

    def _tell(self, room: Room, message: Json, kind: str = "message") -> None:
        """Give the bot a message; in groups only what is meant for it."""
        text = message.get("text", "")
        meant = text.startswith("/") or f"@{self.me['username']}" in text.lower()
        if room.has(self.me["id"]) and (room.type == "private" or meant):
            self.updates.add(kind, message)

    def _status(self, room: Room, by: int, old: str, new: str) -> None:
        change = {
            "chat": self.chat(room),
            "from": self.user(by),
            "date": int(self.now()),
            "old_chat_member": self._member(old),
            "new_chat_member": self._member(new),
        }
        self.updates.add("my_chat_member", change)

    def _member(self, status: str) -> Json:
        """Return the bot as a ChatMember."""
        member: Json = {"status": status, "user": self.me}
        return member | ({"until_date": 0} if status == "kicked" else {})


def _written(text: str) -> Json:
    """Return what a person writes as the content of a message."""
    text, _ = formatted(text, None, "", 4096, "message is too long")
    if not text:
        raise bad("message text is empty")
    entities = found(text)
    return {"text": text} | ({"entities": entities} if entities else {})


def _forget_oldest(kept: dict[Any, Any], most: int) -> None:
    if len(kept) > most:
        del kept[next(iter(kept))]
