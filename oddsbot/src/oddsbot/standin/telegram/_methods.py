"""The Bot API's methods, each checked as the real one checks it."""

from __future__ import annotations

import re
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ._markup import keyboard
from ._text import formatted, found, units
from .errors import ApiError, Json, bad
from .updates import Webhook
from .world import Sent

if TYPE_CHECKING:
    from ._fields import Fields
    from .faults import Counts
    from .world import Photo, Room, World

METHODS = (
    *("getMe", "getUpdates", "setWebhook", "deleteWebhook", "getWebhookInfo"),
    *("sendMessage", "sendPhoto", "sendDocument"),
    *("editMessageText", "editMessageMedia"),
    *("answerCallbackQuery", "setMyCommands", "getMyCommands"),
)
TEXT, CAPTION = 4096, 1024
QUERY_LIFETIME = 60.0
_COMMAND = re.compile(r"[a-z0-9_]{1,32}\Z")
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}\Z")
_NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are "
    "exactly the same as a current content and reply markup of the message"
)
_TOO_OLD = "query is too old and response timeout expired or query ID is invalid"


class Methods:
    """Answers calls from the world.

    Args:
        world: The chats.
        counts: Of messages, for 429.
    """

    def __init__(self, world: World, counts: Counts) -> None:
        self._world = world
        self._counts = counts
        self._by_name = {
            name.lower(): (name, getattr(self, re.sub("([A-Z])", r"_\1", name).lower()))
            for name in METHODS
        }

    def known(self, name: str) -> str | None:
        """Return a method's name as it is written; None where there is none."""
        known = self._by_name.get(name.lower())
        return known[0] if known else None

    async def call(self, name: str, fields: Fields) -> Any:
        """Return the result of a call.

        Raises:
            ApiError: It is refused.
        """
        result = self.now(name, fields)
        return await result if name == "getUpdates" else result

    def now(self, name: str, fields: Fields) -> Any:
        """Return the result of any call but getUpdates, which is to be awaited.

        Raises:
            ApiError: It is refused.
        """
        return self._by_name[name.lower()][1](fields)

    # --- the bot and its updates

    def get_me(self, _: Fields) -> Json:
        can = ("can_join_groups", "supports_inline_queries")
        return self._world.me | {
            **dict.fromkeys(can, True),
            "can_read_all_group_messages": False,
            "has_main_web_app": False,
            "has_topics_enabled": False,
            "can_connect_to_business": False,
        }

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
        connections = fields.number("max_connections", 40)
        if not 1 <= connections <= 100:
            raise bad("max_connections must be between 1 and 100")
        updates = self._world.updates
        updates.allow(fields.names("allowed_updates"))
        if fields.flag("drop_pending_updates"):
            updates.drop()
        updates.hook(Webhook(url=url, secret=secret, connections=connections))
        return True

    def delete_webhook(self, fields: Fields) -> bool:
        if fields.flag("drop_pending_updates"):
            self._world.updates.drop()
        self._world.updates.hook(None)
        return True

    def get_webhook_info(self, _: Fields) -> Json:
        updates = self._world.updates
        info: Json = {
            "url": "",
            "has_custom_certificate": False,
            "pending_update_count": updates.pending,
        }
        if updates.allowed:
            info["allowed_updates"] = sorted(updates.allowed)
        hook = updates.webhook
        if hook is not None:
            info |= {"url": hook.url, "max_connections": hook.connections}
            if hook.error_at is not None:
                info["last_error_date"] = int(hook.error_at)
                info["last_error_message"] = hook.error
        return info

    # --- messages

    def send_message(self, fields: Fields) -> Json:
        text, entities = self._text(fields, "text", TEXT, "message is too long")
        if not text:
            raise bad("message text is empty")
        content: Json = {"text": text}
        if entities:
            content["entities"] = entities
        return self._send(fields, "sendMessage", content)

    def send_photo(self, fields: Fields) -> Json:
        photo = self._photo(fields, fields.text("photo") or "attach://photo")
        content = {"photo": photo.sizes()}
        return self._send(fields, "sendPhoto", self._captioned(fields, content))

    def send_document(self, fields: Fields) -> Json:
        source = fields.text("document") or "attach://document"
        upload = fields.files.get(source.removeprefix("attach://"))
        if upload is None:
            raise bad("there is no document in the request")
        if not upload.data:
            raise bad("file must be non-empty")
        kept = self._world.keep(upload.data, "application/octet-stream", 0, 0)
        document = {
            "file_id": kept.file_id,
            "file_unique_id": kept.unique_id,
            "file_name": upload.name,
            "file_size": len(upload.data),
        }
        return self._send(
            fields, "sendDocument", self._captioned(fields, {"document": document})
        )

    def edit_message_text(self, fields: Fields) -> Json:
        text, entities = self._text(fields, "text", TEXT, "message is too long")
        if not text:
            raise bad("message text is empty")
        room, old = self._own(fields)
        if "text" not in old:
            raise bad("there is no text in the message to edit")
        new = {"text": text} | ({"entities": entities} if entities else {})
        return self._change(fields, room, old, new, ("text", "entities"))

    def edit_message_media(self, fields: Fields) -> Json:
        media = fields.json("media")
        if not isinstance(media, dict):
            raise bad("can't parse media: an Object expected")
        new = self._media(fields, media)
        room, old = self._own(fields)
        gone = ("text", "entities", "photo", "caption", "caption_entities")
        return self._change(fields, room, old, new, gone)

    # --- queries

    def answer_callback_query(self, fields: Fields) -> bool:
        number = fields.text("callback_query_id")
        text = fields.text("text")
        if units(text) > 200:
            raise bad("MESSAGE_TOO_LONG")
        query = self._query(number)
        toast: Json = {
            "text": text,
            "alert": fields.flag("show_alert"),
            "to": query.person,
            "query": number,
        }
        self._world.show(query.chat, "answer", toast)
        return True

    # --- what the bot says of itself

    def set_my_commands(self, fields: Fields) -> bool:
        commands = fields.json("commands")
        if not isinstance(commands, list) or len(commands) > 100:
            raise bad("can't parse commands: an Array of at most 100 expected")
        for each in commands:
            name, about = (
                (each.get("command"), each.get("description"))
                if isinstance(each, dict)
                else (None, None)
            )
            if not isinstance(name, str) or not _COMMAND.match(name.removeprefix("/")):
                raise bad("BOT_COMMAND_INVALID")
            if not isinstance(about, str) or not 1 <= units(about.strip()) <= 256:
                raise bad("BOT_COMMAND_DESCRIPTION_INVALID")
        self._world.commands = [
            {**each, "command": each["command"].removeprefix("/")} for each in commands
        ]
        return True

    def get_my_commands(self, _: Fields) -> list[Json]:
        return self._world.commands

    # --- the parts

    def _room(self, fields: Fields) -> Room:
        if not fields.text("chat_id"):
            raise bad("chat_id is empty")
        try:
            chat = fields.number("chat_id")
        except ApiError:
            raise bad("chat not found") from None
        return self._world.room(chat)

    def _text(
        self, fields: Fields, name: str, limit: int, too_long: str
    ) -> tuple[str, list[Json]]:
        entities = "entities" if name == "text" else "caption_entities"
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
        return text, sorted(kept, key=lambda entity: entity["offset"])

    def _captioned(self, fields: Fields, content: Json) -> Json:
        text, entities = self._text(
            fields, "caption", CAPTION, "message caption is too long"
        )
        if text:
            content["caption"] = text
        if entities:
            content["caption_entities"] = entities
        return content

    def _media(self, fields: Fields, media: Json) -> Json:
        if media.get("type") != "photo":
            raise bad("can't parse InputMedia: this stand-in knows photos")
        inner = type(fields)(media, fields.files)
        photo = self._photo(inner, inner.text("media"))
        return self._captioned(inner, {"photo": photo.sizes()})

    def _photo(self, fields: Fields, source: str) -> Photo:
        if not source.startswith("attach://"):
            photo = self._world.photos.get(source)
            if photo is None:
                raise bad(
                    "failed to get HTTP URL content"
                    if source.startswith(("http://", "https://"))
                    else "wrong file identifier/HTTP URL specified"
                )
            return photo
        upload = fields.files.get(source.removeprefix("attach://"))
        if upload is None:
            raise bad("there is no photo in the request")
        if not upload.data:
            raise bad("file must be non-empty")
        width, height = _picture(upload.data)
        if width + height > 10_000 or max(width, height) > 20 * min(width, height):
            raise bad("PHOTO_INVALID_DIMENSIONS")
        return self._world.keep(upload.data, "image/png", width, height)

    def _send(self, fields: Fields, method: str, content: Json) -> Json:
        room = self._room(fields)
        markup = keyboard(fields.json("reply_markup"))
        extra: Json = {"reply_markup": markup} if markup else {}
        now = self._world.now()
        self._counts.spend(now, room.id, group=room.type != "private", messages=1)
        if fields.flag("disable_notification"):
            extra["_silent"] = True
        message = self._world.post(room, self._world.me["id"], content | extra)
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

    def _change(
        self, fields: Fields, room: Room, old: Json, new: Json, gone: tuple[str, ...]
    ) -> Json:
        markup = keyboard(fields.json("reply_markup"))
        kept = {key: value for key, value in old.items() if key not in gone}
        kept.pop("reply_markup", None)
        kept.pop("edit_date", None)
        changed = kept | new | ({"reply_markup": markup} if markup else {})
        if changed == {key: old[key] for key in old if key != "edit_date"}:
            raise bad(_NOT_MODIFIED)
        changed["edit_date"] = int(self._world.now())
        room.messages[old["message_id"]] = changed
        self._world.show(room.id, "message", changed)
        return changed

    def _query(self, number: str) -> Any:
        query = self._world.queries.get(number)
        if (
            query is None
            or query.answered
            or self._world.now() - query.at > QUERY_LIFETIME
        ):
            raise bad(_TOO_OLD)
        query.answered = True
        return query


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
