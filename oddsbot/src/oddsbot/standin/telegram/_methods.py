"""The Bot API's methods, each checked as the real one checks it."""

from __future__ import annotations

import re
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import _markup
from ._text import formatted, found, units
from .errors import ApiError, Json, bad
from .updates import Webhook
from .world import Sent

if TYPE_CHECKING:
    from ._fields import Fields
    from .faults import Counts
    from .world import Photo, Room, World

METHODS = (
    *("getMe", "logOut", "close"),
    *("getUpdates", "setWebhook", "deleteWebhook", "getWebhookInfo"),
    *("sendMessage", "sendPhoto", "sendMediaGroup", "sendChatAction"),
    *("editMessageText", "editMessageCaption", "editMessageMedia"),
    *("editMessageReplyMarkup", "deleteMessage", "deleteMessages"),
    *("pinChatMessage", "unpinChatMessage", "setMessageReaction"),
    *("answerCallbackQuery", "answerInlineQuery"),
    *("setMyCommands", "getMyCommands", "deleteMyCommands"),
    *("setMyName", "getMyName", "setMyDescription", "getMyDescription"),
    *("setMyShortDescription", "getMyShortDescription"),
    *("setChatMenuButton", "getChatMenuButton"),
    *("getChat", "getChatMember", "getChatMemberCount", "getChatAdministrators"),
    *("leaveChat", "getFile"),
)
TEXT, CAPTION = 4096, 1024
QUERY_LIFETIME = 60.0
_ACTIONS = frozenset(
    [
        "typing",
        "upload_photo",
        "record_video",
        "upload_video",
        "record_voice",
        "upload_voice",
        "upload_document",
        "choose_sticker",
        "find_location",
        "record_video_note",
        "upload_video_note",
    ]
)
_SCOPES = frozenset(
    [
        "default",
        "all_private_chats",
        "all_group_chats",
        "all_chat_administrators",
        "chat",
        "chat_administrators",
        "chat_member",
    ]
)
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

    def log_out(self, _: Fields) -> bool:
        return True

    def close(self, _: Fields) -> bool:
        return True

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
        return self._send(fields, "sendMessage", [content])[0]

    def send_photo(self, fields: Fields) -> Json:
        photo = self._photo(fields, fields.text("photo") or "attach://photo")
        return self._send(fields, "sendPhoto", [self._captioned(fields, photo)])[0]

    def send_media_group(self, fields: Fields) -> list[Json]:
        media = fields.json("media")
        if not isinstance(media, list) or not all(isinstance(m, dict) for m in media):
            raise bad("can't parse media: Array of InputMedia expected")
        if not 2 <= len(media) <= 10:
            raise bad("album must have from 2 to 10 items")
        contents = [self._media(fields, each) for each in media]
        group = str(self._world.number())
        for content in contents:
            content["media_group_id"] = group
        return self._send(fields, "sendMediaGroup", contents)

    def send_chat_action(self, fields: Fields) -> bool:
        room = self._room(fields)
        if fields.text("action") not in _ACTIONS:
            raise bad("wrong parameter action in request")
        self._world.show(room.id, "action", {"action": fields.text("action")})
        return True

    def edit_message_text(self, fields: Fields) -> Json | bool:
        text, entities = self._text(fields, "text", TEXT, "message is too long")
        if not text:
            raise bad("message text is empty")
        if self._inline(fields):
            return True
        room, old = self._own(fields, "edit")
        if "text" not in old:
            raise bad("there is no text in the message to edit")
        new = {"text": text} | ({"entities": entities} if entities else {})
        return self._change(fields, room, old, new, ("text", "entities"))

    def edit_message_caption(self, fields: Fields) -> Json | bool:
        text, entities = self._text(
            fields, "caption", CAPTION, "message caption is too long"
        )
        if self._inline(fields):
            return True
        room, old = self._own(fields, "edit")
        if "photo" not in old:
            raise bad("there is no caption in the message to edit")
        new: Json = {"caption": text} if text else {}
        if entities:
            new["caption_entities"] = entities
        return self._change(fields, room, old, new, ("caption", "caption_entities"))

    def edit_message_media(self, fields: Fields) -> Json | bool:
        media = fields.json("media")
        if not isinstance(media, dict):
            raise bad("can't parse media: an Object expected")
        new = self._media(fields, media)
        if self._inline(fields):
            return True
        room, old = self._own(fields, "edit")
        gone = ("text", "entities", "photo", "caption", "caption_entities")
        return self._change(fields, room, old, new, gone)

    def edit_message_reply_markup(self, fields: Fields) -> Json | bool:
        if self._inline(fields):
            return True
        room, old = self._own(fields, "edit")
        return self._change(fields, room, old, {}, ())

    def delete_message(self, fields: Fields) -> bool:
        room, message = self._own(fields, "delete")
        self._delete(room, message["message_id"])
        return True

    def delete_messages(self, fields: Fields) -> bool:
        room = self._room(fields)
        numbers = fields.json("message_ids")
        if not isinstance(numbers, list) or not 1 <= len(numbers) <= 100:
            raise bad("from 1 to 100 message identifiers expected")
        for number in numbers:
            if isinstance(number, int) and number in room.messages:
                self._delete(room, number)
        return True

    def pin_chat_message(self, fields: Fields) -> bool:
        room = self._room(fields)
        number = fields.number("message_id")
        if number not in room.messages:
            raise bad("message to pin not found")
        if room.type != "private":
            self._be_admin(
                room, "not enough rights to manage pinned messages in the chat"
            )
        room.pinned = number
        return True

    def unpin_chat_message(self, fields: Fields) -> bool:
        self._room(fields).pinned = 0
        return True

    def set_message_reaction(self, fields: Fields) -> bool:
        room = self._room(fields)
        if fields.number("message_id") not in room.messages:
            raise bad("message to react not found")
        reaction = fields.json("reaction")
        if reaction is not None and not isinstance(reaction, list):
            raise bad("can't parse reaction: an Array expected")
        return True

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

    def answer_inline_query(self, fields: Fields) -> bool:
        results = fields.json("results")
        if not isinstance(results, list) or len(results) > 50:
            raise bad(
                "can't parse inline query result: an Array of at most 50 expected"
            )
        numbers = [
            each.get("id") if isinstance(each, dict) else None for each in results
        ]
        if any(
            not isinstance(n, str) or not 0 < len(n.encode()) <= 64 for n in numbers
        ):
            raise bad("RESULT_ID_INVALID")
        if len(set(numbers)) < len(numbers):
            raise bad("RESULT_ID_DUPLICATE")
        query = self._query(fields.text("inline_query_id"))
        self._world.show(query.chat, "inline", {"results": results})
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
        self._world.settings[self._scope(fields)] = [
            {**each, "command": each["command"].removeprefix("/")} for each in commands
        ]
        return True

    def get_my_commands(self, fields: Fields) -> list[Json]:
        commands: list[Json] = self._world.settings.get(self._scope(fields), [])
        return commands

    def delete_my_commands(self, fields: Fields) -> bool:
        self._world.settings.pop(self._scope(fields), None)
        return True

    def set_my_name(self, fields: Fields) -> bool:
        return self._describe(fields, "name", 64)

    def get_my_name(self, fields: Fields) -> Json:
        return self._described(fields, "name") or {"name": self._world.me["first_name"]}

    def set_my_description(self, fields: Fields) -> bool:
        return self._describe(fields, "description", 512)

    def get_my_description(self, fields: Fields) -> Json:
        return self._described(fields, "description") or {"description": ""}

    def set_my_short_description(self, fields: Fields) -> bool:
        return self._describe(fields, "short_description", 120)

    def get_my_short_description(self, fields: Fields) -> Json:
        name = "short_description"
        return self._described(fields, name) or {name: ""}

    def set_chat_menu_button(self, fields: Fields) -> bool:
        button = fields.json("menu_button") or {"type": "default"}
        if not isinstance(button, dict) or str(button.get("type")) not in {
            "default",
            "commands",
            "web_app",
        }:
            raise bad("can't parse menu button: unsupported type specified")
        self._world.settings[f"menu {fields.text('chat_id')}"] = button
        return True

    def get_chat_menu_button(self, fields: Fields) -> Json:
        default = {"type": "commands"}
        key = f"menu {fields.text('chat_id')}"
        button: Json = self._world.settings.get(key, default)
        return button

    # --- chats and files

    def get_chat(self, fields: Fields) -> Json:
        room = self._room(fields)
        chat = self._world.chat(room) | {
            "accent_color_id": 0,
            "max_reaction_count": 11,
            "accepted_gift_types": dict.fromkeys(
                (
                    "unlimited_gifts",
                    "limited_gifts",
                    "unique_gifts",
                    "premium_subscription",
                    "gifts_from_channels",
                ),
                False,
            ),
        }
        if room.pinned in room.messages:
            chat["pinned_message"] = room.messages[room.pinned]
        return chat

    def get_chat_member(self, fields: Fields) -> Json:
        room, number = self._room(fields), fields.number("user_id")
        if number not in self._world.people and number != self._world.me["id"]:
            raise bad("invalid user_id specified")
        return self._world.member(room, number)

    def get_chat_member_count(self, fields: Fields) -> int:
        statuses = self._room(fields).members.values()
        return sum(status not in {"left", "kicked"} for status in statuses)

    def get_chat_administrators(self, fields: Fields) -> list[Json]:
        room = self._room(fields)
        if room.type == "private":
            raise bad("there are no administrators in the private chat")
        return [
            self._world.member(room, number)
            for number, status in room.members.items()
            if status in {"creator", "administrator"}
        ]

    def leave_chat(self, fields: Fields) -> bool:
        room = self._room(fields)
        if room.type == "private":
            raise bad("chat member status can't be changed in private chats")
        bot = self._world.me["id"]
        self._world.set_status(room.id, bot, bot, "left")
        return True

    def get_file(self, fields: Fields) -> Json:
        photo = self._world.photos.get(fields.text("file_id"))
        if photo is None:
            raise bad("invalid file_id")
        size = photo.sizes()[0]
        del size["width"], size["height"]
        return size | {"file_path": photo.path}

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

    def _captioned(self, fields: Fields, photo: Photo) -> Json:
        text, entities = self._text(
            fields, "caption", CAPTION, "message caption is too long"
        )
        content: Json = {"photo": photo.sizes()}
        if text:
            content["caption"] = text
        if entities:
            content["caption_entities"] = entities
        return content

    def _media(self, fields: Fields, media: Json) -> Json:
        if media.get("type") != "photo":
            raise bad("can't parse InputMedia: this stand-in knows photos")
        inner = type(fields)(media, fields.files)
        return self._captioned(inner, self._photo(inner, inner.text("media")))

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
        mime, width, height = _picture(upload.data)
        if width + height > 10_000 or max(width, height) > 20 * min(width, height):
            raise bad("PHOTO_INVALID_DIMENSIONS")
        return self._world.keep(upload.data, mime, width, height)

    def _send(self, fields: Fields, method: str, contents: list[Json]) -> list[Json]:
        room = self._room(fields)
        markup = _markup.any_markup(fields.json("reply_markup"))
        extra: Json = {}
        if markup and "inline_keyboard" in markup:
            extra["reply_markup"] = markup
        reply = fields.json("reply_parameters") or {}
        if not isinstance(reply, dict):
            raise bad("can't parse reply parameters: an Object expected")
        number = reply.get("message_id") or (
            fields.number("reply_to_message_id")
            if "reply_to_message_id" in fields
            else 0
        )
        if not isinstance(number, int):
            raise bad("invalid message_id specified")
        if number in room.messages:
            replied = {**room.messages[number]}
            replied.pop("reply_to_message", None)
            extra["reply_to_message"] = replied
        elif number and not reply.get("allow_sending_without_reply"):
            raise bad("message to be replied not found")
        if room.type == "channel":
            self._be_admin(room, "need administrator rights in the channel chat")
        now = self._world.now()
        group = room.type != "private"
        self._counts.spend(now, room.id, group=group, messages=len(contents))
        if fields.flag("disable_notification"):
            extra["_silent"] = True
        messages = []
        for content in contents:
            message = self._world.post(room, self._world.me["id"], content | extra)
            text = content.get("text") or content.get("caption") or ""
            sent = Sent(now, room.id, message["message_id"], method, text)
            self._world.sent.append(sent)
            messages.append(message)
        return messages

    def _inline(self, fields: Fields) -> bool:
        """Whether it is of a message in a chat that the bot does not see."""
        if "inline_message_id" not in fields:
            return False
        _markup.inline_only(fields.json("reply_markup"))
        if not fields.text("inline_message_id").startswith("inline-"):
            raise bad("MESSAGE_ID_INVALID")
        return True

    def _own(self, fields: Fields, what: str) -> tuple[Room, Json]:
        room = self._room(fields)
        message = room.messages.get(fields.number("message_id"))
        if message is None:
            raise bad(f"message to {what} not found")
        own = message.get("from", self._world.me)["id"] == self._world.me["id"]
        admin = room.members[self._world.me["id"]] == "administrator"
        may = own if what == "edit" else own or room.type == "private" or admin
        if not may:
            raise bad(f"message can't be {what.rstrip('e')}ed")
        return room, message

    def _change(
        self, fields: Fields, room: Room, old: Json, new: Json, gone: tuple[str, ...]
    ) -> Json:
        markup = _markup.inline_only(fields.json("reply_markup"))
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

    def _delete(self, room: Room, number: int) -> None:
        del room.messages[number]
        self._world.show(room.id, "gone", {"message_id": number})

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

    def _be_admin(self, room: Room, otherwise: str) -> None:
        if room.members[self._world.me["id"]] not in {"administrator", "creator"}:
            raise bad(otherwise)

    def _scope(self, fields: Fields) -> str:
        scope = fields.json("scope") or {"type": "default"}
        if not isinstance(scope, dict) or str(scope.get("type")) not in _SCOPES:
            raise bad("can't parse BotCommandScope: Unsupported type specified")
        language = fields.text("language_code")
        if language and not re.fullmatch("[a-z]{2}", language):
            raise bad("invalid language_code specified")
        where = (scope["type"], scope.get("chat_id", ""), scope.get("user_id", ""))
        return f"commands {where} {language}"

    def _describe(self, fields: Fields, name: str, limit: int) -> bool:
        text = fields.text(name)
        if units(text) > limit:
            raise bad(f"{name} is too long")
        self._world.settings[f"{name} {fields.text('language_code')}"] = {name: text}
        return True

    def _described(self, fields: Fields, name: str) -> Json | None:
        return self._world.settings.get(f"{name} {fields.text('language_code')}")


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


def _picture(data: bytes) -> tuple[str, int, int]:
    """Return the type, width and height of a PNG or JPEG."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        if len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
            if width and height:
                return "image/png", width, height
    elif data.startswith(b"\xff\xd8\xff"):
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            size = int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] in {0xC0, 0xC1, 0xC2}:
                height, width = struct.unpack(">HH", data[at + 5 : at + 9])
                if width and height:
                    return "image/jpeg", width, height
            at += 2 + size
    raise bad("IMAGE_PROCESS_FAILED")
