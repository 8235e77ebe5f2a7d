"""The Bot API's methods, each checked as the real one checks it."""

from __future__ import annotations

import re
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from ._checks import formatted, found, keyboard, units
from .errors import Json, bad
from .updates import Webhook
from .world import Sent

if TYPE_CHECKING:
    from ._fields import Fields, Upload
    from .faults import Counts
    from .world import Photo, Room, World

METHODS = (
    *("getMe", "getUpdates", "setWebhook", "deleteWebhook", "getWebhookInfo"),
    *("sendMessage", "sendPhoto", "sendDocument"),
    *("editMessageText", "editMessageMedia"),
    *("answerCallbackQuery", "setMyCommands", "getMyCommands"),
)
# Of each kind of text: its entities, the most UTF-16 units, how more are refused.
_TEXTS = {
    "text": ("entities", 4096, "message is too long"),
    "caption": ("caption_entities", 1024, "message caption is too long"),
}
QUERY_LIFETIME = 60.0
_COMMAND = re.compile(r"[a-z0-9_]{1,32}\Z")
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}\Z")
# What an edit replaces.
_CONTENT = frozenset(
    [
        *("text", "entities", "photo", "document", "caption", "caption_entities"),
        *("reply_markup", "edit_date"),
    ]
)
_NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are "
    "exactly the same as a current content and reply markup of the message"
)
_TOO_OLD = "query is too old and response timeout expired or query ID is invalid"


class _Command(msgspec.Struct):
    command: str
    description: str


class Methods:
    """Answers calls from the world.

    Args:
        world: The chats.
        counts: Of messages, for 429.
    """

    def __init__(self, world: World, counts: Counts) -> None:
        self._world = world
        self._counts = counts

    def known(self, name: str) -> str | None:
        """Return a method's name as it is written; None where there is none."""
        return next((each for each in METHODS if each.lower() == name.lower()), None)

    async def call(self, name: str, fields: Fields) -> Any:
        """Return the result of a call.

        Raises:
            ApiError: It is refused.
        """
        method = getattr(self, re.sub("([A-Z])", r"_\1", name).lower())
        result = method(fields)
        return await result if name == "getUpdates" else result

    # --- the bot and its updates

    def get_me(self, _: Fields) -> Json:
        return self._world.me

    async def get_updates(self, fields: Fields) -> list[Json]:
        return await self._world.updates.poll(
            fields.number("offset", 0),
            fields.number("limit", 100),
            fields.number("timeout", 0),
            fields.names("allowed_updates"),
        )

    def set_webhook(self, fields: Fields) -> bool:
        url, secret = fields.text("url"), fields.text("secret_token")
        if not url:
            return self.delete_webhook(fields)
        _check_webhook(url)
        if secret and not _SECRET.match(secret):
            raise bad("secret token contains unallowed characters")
        updates = self._world.updates
        updates.allow(fields.names("allowed_updates"))
        updates.hook(Webhook(url=url, secret=secret))
        return True

    def delete_webhook(self, _: Fields) -> bool:
        self._world.updates.hook(None)
        return True

    def get_webhook_info(self, _: Fields) -> Json:
        updates = self._world.updates
        hook = updates.webhook or Webhook(url="")
        info: Json = {
            "url": hook.url,
            "has_custom_certificate": False,
            "pending_update_count": updates.pending,
        }
        if updates.allowed:
            info["allowed_updates"] = sorted(updates.allowed)
        if hook.error_at is not None:
            info["last_error_date"] = int(hook.error_at)
            info["last_error_message"] = hook.error
        return info

    # --- messages

    def send_message(self, fields: Fields) -> Json:
        return self._send(fields, "sendMessage", self._body(fields))

    def send_photo(self, fields: Fields) -> Json:
        photo = self._photo(fields, fields.text("photo") or "attach://photo")
        content = {"photo": photo.sizes()} | self._text(fields, "caption")
        return self._send(fields, "sendPhoto", content)

    def send_document(self, fields: Fields) -> Json:
        upload = _upload(fields, fields.text("document"), "document")
        kept = self._world.keep(upload.data, "application/octet-stream", 0, 0)
        document = {
            "file_id": kept.file_id,
            "file_unique_id": kept.unique_id,
            "file_name": upload.name,
            "file_size": len(upload.data),
        }
        content = {"document": document} | self._text(fields, "caption")
        return self._send(fields, "sendDocument", content)

    def edit_message_text(self, fields: Fields) -> Json:
        new = self._body(fields)
        room, old = self._own(fields)
        if "text" not in old:
            raise bad("there is no text in the message to edit")
        return self._change(fields, room, old, new)

    def edit_message_media(self, fields: Fields) -> Json:
        media = fields.json("media")
        if not isinstance(media, dict) or media.get("type") != "photo":
            raise bad("can't parse InputMedia: this stand-in knows photos")
        inner = type(fields)(media, fields.files)
        photo = self._photo(inner, inner.text("media"))
        new = {"photo": photo.sizes()} | self._text(inner, "caption")
        return self._change(fields, *self._own(fields), new)

    # --- queries

    def answer_callback_query(self, fields: Fields) -> bool:
        number, text = fields.text("callback_query_id"), fields.text("text")
        if units(text) > 200:
            raise bad("MESSAGE_TOO_LONG")
        query = self._world.queries.get(number)
        if (
            query is None
            or query.answered
            or self._world.now() - query.at > QUERY_LIFETIME
        ):
            raise bad(_TOO_OLD)
        query.answered = True
        toast = {"text": text, "to": query.person}
        self._world.show(query.chat, "answer", toast)
        return True

    # --- what the bot says of itself

    def set_my_commands(self, fields: Fields) -> bool:
        try:
            commands = msgspec.convert(fields.json("commands"), list[_Command])
        except msgspec.ValidationError:
            raise bad("can't parse commands: an Array of BotCommand expected") from None
        if len(commands) > 100:
            raise bad("BOT_COMMANDS_TOO_MUCH")
        for each in commands:
            each.command = each.command.removeprefix("/")
            if not _COMMAND.match(each.command):
                raise bad("BOT_COMMAND_INVALID")
            if not 1 <= units(each.description.strip()) <= 256:
                raise bad("BOT_COMMAND_DESCRIPTION_INVALID")
        self._world.commands = msgspec.to_builtins(commands)
        return True

    def get_my_commands(self, _: Fields) -> list[Json]:
        return self._world.commands

    # --- the parts

    def _room(self, fields: Fields) -> Room:
        if not fields.text("chat_id"):
            raise bad("chat_id is empty")
        return self._world.room(fields.chat())

    def _text(self, fields: Fields, name: str) -> Json:
        """Return a text and its entities as a message has them; neither if empty."""
        entities, limit, too_long = _TEXTS[name]
        text, kept = formatted(
            fields.text(name),
            fields.json(entities),
            fields.text("parse_mode"),
            limit,
            too_long,
        )
        # Links and commands are found where nothing else stands.
        taken = [range(e["offset"], e["offset"] + e["length"]) for e in kept]
        kept += [e for e in found(text) if not any(e["offset"] in r for r in taken)]
        kept.sort(key=lambda entity: entity["offset"])
        return ({name: text} if text else {}) | ({entities: kept} if kept else {})

    def _body(self, fields: Fields) -> Json:
        content = self._text(fields, "text")
        if not content:
            raise bad("message text is empty")
        return content

    def _photo(self, fields: Fields, source: str) -> Photo:
        if not source.startswith("attach://"):
            photo = self._world.photos.get(source)
            if photo is None:
                raise bad("wrong file identifier/HTTP URL specified")
            return photo
        upload = _upload(fields, source, "photo")
        width, height = _picture(upload.data)
        if width + height > 10_000 or max(width, height) > 20 * min(width, height):
            raise bad("PHOTO_INVALID_DIMENSIONS")
        return self._world.keep(upload.data, "image/png", width, height)

    def _send(self, fields: Fields, method: str, content: Json) -> Json:
        room = self._room(fields)
        markup = keyboard(fields.json("reply_markup"))
        extra: Json = {"reply_markup": markup} if markup else {}
        now = self._world.now()
        self._counts.spend(now, room.id, group=room.type != "private")
        message = self._world.post(
            room,
            self._world.me["id"],
            content | extra,
            topic=fields.number("message_thread_id", 0),
            silent=fields.flag("disable_notification"),
        )
        text = content.get("text") or content.get("caption") or ""
        sent = Sent(now, room.id, message["message_id"], method, text)
        self._world.sent.append(sent)
        return message

    def _own(self, fields: Fields) -> tuple[Room, Json]:
        room = self._room(fields)
        message = room.messages.get(fields.number("message_id"))
        if message is None:
            raise bad("message to edit not found")
        if message["from"]["id"] != self._world.me["id"]:
            raise bad("message can't be edited")
        return room, message

    def _change(self, fields: Fields, room: Room, old: Json, new: Json) -> Json:
        markup = keyboard(fields.json("reply_markup"))
        kept = {key: value for key, value in old.items() if key not in _CONTENT}
        changed = kept | new | ({"reply_markup": markup} if markup else {})
        if changed == {key: old[key] for key in old if key != "edit_date"}:
            raise bad(_NOT_MODIFIED)
        changed["edit_date"] = int(self._world.now())
        room.messages[old["message_id"]] = changed
        self._world.show(room.id, "message", changed)
        return changed


def _upload(fields: Fields, source: str, what: str) -> Upload:
    upload = fields.files.get(source.removeprefix("attach://"))
    if upload is None:
        raise bad(f"there is no {what} in the request")
    if not upload.data:
        raise bad("file must be non-empty")
    return upload


def _check_webhook(url: str) -> None:
    """Refuse what is no address of this machine: a stand-in sends nowhere else."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        local = host == "localhost" or ip_address(host).is_loopback
        parts.port  # noqa: B018 - it raises on a wrong one
    except ValueError:
        local = False
    if not local or parts.scheme not in {"http", "https"} or parts.username:
        raise bad(
            "bad webhook: this stand-in sends to http(s)://127.0.0.1 or localhost only"
        )


def _picture(data: bytes) -> tuple[int, int]:
    """Return the width and height of a PNG."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
        if width and height:
            return width, height
    raise bad("IMAGE_PROCESS_FAILED")
