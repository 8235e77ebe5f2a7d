"""A Telegram bot that follows Polymarket; it runs on `oddswire`."""
