"""What arq's tests get from elsewhere: a container that is there already."""

from __future__ import annotations

import sys
from types import ModuleType


class RedisContainer:
    """The server at the usual port."""

    port = 6379

    def __init__(self, image):
        self.image = image

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def get_container_host_ip(self):
        return "localhost"

    def get_exposed_port(self, port):
        return port


for name in ("testcontainers", "testcontainers.redis"):
    sys.modules[name] = ModuleType(name)
sys.modules["testcontainers.redis"].RedisContainer = RedisContainer
