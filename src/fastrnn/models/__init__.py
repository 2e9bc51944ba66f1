"""Models made of the library's layers."""

from .char_lm import CharLM

__all__ = ["CharLM"]
