"""Telegram: updates in, cards out. The only place that knows aiogram."""
