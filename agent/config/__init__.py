"""What an installer writes: one TOML file, read once at start into typed settings.

An unknown key or a wrong value is refused with file, line, key and what would be right. Secrets are never in the
file: a key that ends in `_secret` names where one is, "file:/path" or "credential:NAME" (systemd's LoadCredential).
What a setting does must not live here: rooms take the section that is theirs.
"""

from agent.config.bounds_settings import BoundsSettings
from agent.config.device_settings import DeviceSettings
from agent.config.file import DEFAULT_PATH, ConfigError, model_at, read_settings
from agent.config.input_settings import InputSettings
from agent.config.secrets import SecretError, read_secret
from agent.config.settings import (
    ControlSettings,
    FeedSettings,
    FrequencySettings,
    MandateSettings,
    PlatformSettings,
    SiteSettings,
    StatementsAsTelemetry,
    TokenSettings,
    UnsignedCommands,
    WebSettings,
)
from agent.config.values import MQTT_SCHEME, is_loopback, is_this_machine, split_address, zone_of
from agent.config.whole import Settings

__all__ = [
    "DEFAULT_PATH",
    "MQTT_SCHEME",
    "BoundsSettings",
    "ConfigError",
    "ControlSettings",
    "DeviceSettings",
    "FeedSettings",
    "FrequencySettings",
    "InputSettings",
    "MandateSettings",
    "PlatformSettings",
    "SecretError",
    "Settings",
    "SiteSettings",
    "StatementsAsTelemetry",
    "TokenSettings",
    "UnsignedCommands",
    "WebSettings",
    "is_loopback",
    "is_this_machine",
    "model_at",
    "read_secret",
    "read_settings",
    "split_address",
    "zone_of",
]
