"""Changes of the tables, made by Alembic; `oddsbot.store.upgrade` runs them."""
