"""Settings: frozen, checked all at once, read from the environment only when asked."""

from oddswire.settings._rules import is_example_key, plaintext_refused
from oddswire.settings._settings import OPTIONS, Settings, not_a_setting
from oddswire.settings.endpoint import Endpoint
from oddswire.settings.options import UNUSED, Option
from oddswire.settings.overrides import Overrides
from oddswire.settings.profiles import PROFILES

__all__ = [
    "OPTIONS",
    "PROFILES",
    "UNUSED",
    "Endpoint",
    "Option",
    "Overrides",
    "Settings",
    "is_example_key",
    "not_a_setting",
    "plaintext_refused",
]
