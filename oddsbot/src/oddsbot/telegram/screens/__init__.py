"""What the bot shows: pure functions from data to `Card`."""
