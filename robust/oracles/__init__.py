"""Models that can only be asked: services behind HTTP, and functions."""

from .function import Function, open_function
from .options import ServiceOptions
from .service import Service, open_service

__all__ = ["Function", "Service", "ServiceOptions", "open_function", "open_service"]
